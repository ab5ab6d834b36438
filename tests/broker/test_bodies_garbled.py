"""References to bodies that no producer of ours writes: refused when they are submitted, and no script fails over one."""

from __future__ import annotations

import struct

import pytest

from broker import codec, keys, refusals
from broker.connection import Link
from broker.errors import InvalidInput
from broker.messages import Kind
from broker.spec import Limits
from tests.broker.actors import MODEL, Client, Slot, counted, publish
from tests.broker.apart import job, left, send, submit
from workers.faults import broken as ended

GARBLED = [
    (b"abcd", b"a b"), (b"ab cd", b"a-1"), (b"abcd", b"a:b-1"), (b"abcd", b"../a-1"), (b"abcd", b""), (b"", b"a-1"),
    (b"abcd", b"a" * 65 + b"-1"), (b"abcd", b"a-" + b"1" * 21), (b"a" * 33, b"a-1"), (b"redis", b"a-1\0"),
]  # fmt: skip


def garbled(client: Client, token: bytes, name: bytes, size: int = 100) -> bytes:
    """A job of format 2 whose reference says just that."""
    client._serial += 1
    head, tail = codec.encode_job_head(
        kind=Kind.BYTES, rows=1, is_one_row=True, is_stored=True, retries=0, result_ttl_s=60, descriptor=b"", context=None,
        is_apart=True,
    )  # fmt: skip
    reference = struct.pack("<QIBB", size, 0, len(token), len(name)) + token + name
    return codec.encode_job(head, f"{client.name}-{client._serial}".encode(), tail, reference)


@pytest.mark.parametrize(("token", "name"), GARBLED)
def test_a_job_whose_reference_is_garbled_is_refused(client: Client, link: Link, token: bytes, name: bytes) -> None:
    good = job(client, token="abcd")[0]
    answer = client.send([good, garbled(client, token, name)], token="abcd")
    assert (answer.code, answer.accepted) == ("garbled", 1)
    assert isinstance(refusals.of(answer, MODEL, Limits()), InvalidInput)


def test_a_job_whose_body_is_in_another_store_than_its_chunk_is_refused(client: Client, link: Link) -> None:
    blob = job(client, token="abcd")[0]
    assert client.send([blob], token="other").code == "garbled"
    assert client.send([blob]).code == "garbled"
    assert client.send([garbled(client, b"abcd", b"a-1", (1 << 40) + 1)], token="abcd").code == "garbled"
    assert left(link, "abcd") == (0, 0)


def test_garbled_references_that_came_past_submit_end_as_jobs_and_break_no_script(
    client: Client, slot: Slot, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: written into the lane, and as a version before noted such a letter
    monkeypatch.setattr("broker.queue.DEAD_CAP", 16)
    link.call("ZADD", keys.dead_bodies(MODEL), 1, "1-0 abcd a b", 1, "1-0 re:dis a-1", 1, "garbled")
    for token, name in GARBLED:
        link.call("XADD", slot.queue.lanes[1], "*", "b", garbled(client, token, name))
    broken = slot.claimed().broken
    assert len(broken) == len(GARBLED)
    assert link.call(*slot.queue.fail([ended(lease) for lease in broken])) == len(GARBLED)
    # when: more letters than are kept
    for _ in range(20):
        submit(client)
        assert slot.fail(slot.claim(), "dead") == 1
    # then
    assert counted(link, "dead") == (20 + len(GARBLED),)
    assert link.call("ZCOUNT", keys.dead_bodies(MODEL), "-inf", 1) == 0
    assert link.call("KEYS", "*re:dis*") == []


def test_a_garbled_letter_may_be_dropped(client: Client, slot: Slot, link: Link) -> None:
    publish(link)
    blob, body = job(client)
    assert send(client, (blob, body)).code == "ok"
    slot.fail(slot.claim(), "dead")
    (letter,) = link.call("ZRANGE", keys.dead_bodies(MODEL), 0, -1)
    entry = letter.split()[0]
    link.call("DEL", keys.dead_bodies(MODEL))
    link.call("ZADD", keys.dead_bodies(MODEL), entry.split(b"-")[0], entry + b" re:dis a/b")
    names = [keys.dead(MODEL), keys.counters(MODEL), keys.dead_bodies(MODEL)]
    assert link.script("drop", names, [entry]) == 1
    assert link.call("KEYS", "*re:dis*") == []
