"""Dead letters whose job's body stands apart: shown as if it had travelled with the job, and told where it cannot be had."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from broker import keys, spec
from broker.bodies_store import open_store
from broker.connection import Link
from broker.spec import Limits
from operators.dead import letters
from tests.broker.actors import MODEL, Client, Slot, id_of, publish
from tests.broker.apart import DATA, job, send, submit


@pytest.fixture
def client(link: Link) -> Client:
    publish(link)
    return Client(link)


def test_a_letter_shows_the_size_and_on_request_the_values_of_its_body(client: Client, link: Link) -> None:
    # given
    sent = submit(client)
    Slot(link).fail(Slot(link).claim(), "dead")
    # when
    plain, full = letters.show(link, sent.id), letters.show(link, sent.id, with_input=True)
    # then
    assert (plain.inputs[0].bytes, plain.values, plain.problem) == (len(DATA), None, "")
    assert base64.b64decode(full.values) == DATA


def test_a_letter_whose_body_is_gone_says_so(client: Client, link: Link) -> None:
    sent = submit(client)
    Slot(link).fail(Slot(link).claim(), "dead")
    link.call("DEL", keys.body(MODEL, sent.id))
    assert letters.show(link, sent.id, with_input=True).problem == "its body is gone"


def test_a_body_in_a_folder_is_shown_where_the_folder_is(client: Client, link: Link, tmp_path: Path) -> None:
    # given
    store = open_store(str(tmp_path / "b"))
    assert store is not None
    blob, written = job(client, token=store.token)
    store.write(written)
    send(client, (blob, {}), token=store.token)
    Slot(link).fail(Slot(link).claim(), "dead")
    # when
    elsewhere = letters.show(link, id_of(blob), with_input=True)
    publish(link, Limits(bodies=str(tmp_path / "b")))
    here = letters.show(link, id_of(blob), with_input=True)
    # then
    assert "ask on the machine that has it" in elsewhere.problem
    assert base64.b64decode(here.values) == DATA
    assert spec.fetch(link, MODEL).limits.bodies == str(tmp_path / "b")
