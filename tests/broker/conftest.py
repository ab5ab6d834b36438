"""A published model on the shared server, one client, two slots."""

from __future__ import annotations

import pytest

from broker.connection import Link
from tests.broker.actors import Client, Slot, publish


@pytest.fixture
def client(link: Link) -> Client:
    publish(link)
    return Client(link)


@pytest.fixture
def slot(link: Link, client: Client) -> Slot:
    return Slot(link, "box/0.1")


@pytest.fixture
def other(link: Link, client: Client) -> Slot:
    return Slot(link, "box/1.1")
