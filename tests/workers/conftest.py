"""What tests of a slot share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker.connection import Link
from tests.workers.fakes import Client


@pytest.fixture
def client(redis_url: str, link: Link) -> Iterator[Client]:
    """Of a Redis that is empty; `link` sees to that."""
    client = Client(redis_url)
    yield client
    client.link.close()
