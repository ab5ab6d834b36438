"""Settling: the first to finish wins, a late one changes nothing; where the outcome goes."""

from __future__ import annotations

import msgspec
import pytest

from broker import keys
from broker.connection import Link
from broker.ends import Ended
from broker.messages import Status
from broker.queue import INLINE_LIMIT_BYTES
from tests.broker.actors import MODEL, Client, Slot, counted, counters, depths, done, pending


def snapshot(link: Link) -> dict[bytes, object]:
    """Every key with its content; times to live are left out."""
    return {key: link.call("DUMP", key) for key in link.call("KEYS", "*")}


def test_a_settled_job_is_gone_and_its_outcome_is_kept_and_replied(link: Link, client: Client, slot: Slot) -> None:
    # given
    (sent,) = client.submit(1)
    # when
    assert slot.settle(slot.claim(), b"fine") == 1
    # then
    (outcome,) = client.replies()
    assert (outcome.id, outcome.status, outcome.attempt) == (sent.id, Status.DONE, 1)
    assert client.result(sent.id) == outcome
    assert (depths(link), pending(link)) == ((0, 0, 0), {})
    assert counted(link, "done", "bytes", "submitted") == (1, 0, 1)


def test_the_result_lives_as_long_as_the_job_asked_for(link: Link, client: Client, slot: Slot) -> None:
    (sent,) = client.submit(1, ttl_s=7)
    slot.settle(slot.claim())
    assert 6_000 < link.call("PTTL", keys.result(MODEL, sent.id)) <= 7_000


def test_the_first_to_finish_wins_and_the_second_changes_nothing(
    link: Link, client: Client, slot: Slot, other: Slot
) -> None:
    # given: two slots believe they hold the same jobs
    sent = client.submit(3)
    mine = slot.claim()
    other.take_over(slot.name)
    theirs = other.claim()
    assert [job.id for job in theirs] == [job.id for job in mine] == [job.id for job in sent]
    # when
    assert other.settle(theirs, b"first") == 3
    before = snapshot(link)
    assert slot.settle(mine, b"second") == 0
    # then
    assert snapshot(link) == before
    assert counted(link, "done") == (3,)
    assert [codec_value(outcome.data) for outcome in client.replies()] == [b"first"] * 3


def test_a_job_its_owner_lost_may_still_be_settled_first(link: Link, client: Client, slot: Slot, other: Slot) -> None:
    # given
    (sent,) = client.submit(1)
    mine = slot.claim()
    other.take_over(slot.name)
    # when: it waits, returned; the zombie is done after all
    assert slot.settle(mine) == 1
    # then
    assert other.claim() == []
    assert counted(link, "done") == (1,)
    assert client.state(sent) == "done"


def test_one_command_may_hold_jobs_of_others_and_jobs_long_gone(
    link: Link, client: Client, slot: Slot, other: Slot
) -> None:
    # given
    client.submit(4)
    jobs = slot.claim()
    other.settle(jobs[:2])
    # when
    assert slot.settle(jobs) == 2
    # then
    assert counted(link, "done", "bytes") == (4, 0)
    assert len(client.replies()) == 4


def test_the_same_job_twice_in_one_command_counts_once(link: Link, client: Client, slot: Slot) -> None:
    client.submit(1)
    assert slot.settle(slot.claim() * 2) == 1
    assert counted(link, "done") == (1,)
    assert len(client.replies()) == 1


def test_a_result_that_is_not_to_be_stored_is_only_replied(link: Link, client: Client, slot: Slot) -> None:
    # given
    (sent,) = client.submit(1, is_stored=False)
    # when
    slot.settle(slot.claim())
    # then
    assert client.result(sent.id) is None
    assert [outcome.id for outcome in client.replies()] == [sent.id]
    assert counted(link, "stored_bytes") == (0,)
    assert client.state(sent) == "unknown"


@pytest.mark.parametrize("is_stored", [True, False])
def test_an_outcome_too_large_for_a_reply_goes_elsewhere(
    link: Link, client: Client, slot: Slot, is_stored: bool
) -> None:
    # given
    (sent,) = client.submit(1, is_stored=is_stored, ttl_s=7)
    data = b"x" * (INLINE_LIMIT_BYTES + 1)
    # when
    slot.settle(slot.claim(), data)
    # then: the reply is a notice, the body waits in the result even where none was to be stored
    (notice,) = client.replies()
    assert (notice.id, notice.status, notice.data, notice.columns) == (sent.id, Status.DONE, b"", ())
    assert notice.note["is_elsewhere"] is True
    assert notice.timings.total_ms == 6
    outcome = client.result(sent.id)
    assert outcome is not None
    assert codec_value(outcome.data) == data
    assert "is_elsewhere" not in outcome.note
    ttl_ms = link.call("PTTL", keys.result(MODEL, sent.id))
    assert ttl_ms <= 7_000 if is_stored else 50_000 < ttl_ms <= 60_000


@pytest.mark.parametrize(("size", "is_elsewhere"), [(INLINE_LIMIT_BYTES, False), (INLINE_LIMIT_BYTES + 1, True)])
def test_exactly_4_kb_is_still_inline(client: Client, slot: Slot, link: Link, size: int, is_elsewhere: bool) -> None:
    # given
    client.submit(1)
    (job,) = slot.claim()
    outcome = done(job, b"x" * (size - len(done(job, b"x" * 3000)) + 3000))
    assert len(outcome) == size
    # when
    link.call(*slot.queue.settle([Ended(job, outcome)]))
    # then
    assert client.replies()[0].note.get("is_elsewhere", False) is is_elsewhere


def test_a_batch_of_two_clients_gives_each_its_own_in_one_element(link: Link, client: Client, slot: Slot) -> None:
    # given
    second = Client(link)
    mine = [job.id for _ in range(3) for job in client.submit(1)]
    theirs = [job.id for job in second.submit(2)]
    # when
    slot.settle(slot.claim())
    # then
    assert link.call("LLEN", client.intake.reply_key) == 1
    assert 0 < link.call("PTTL", client.intake.reply_key) <= keys.REPLY_TTL_MS
    assert [outcome.id for outcome in client.replies()] == mine
    assert [outcome.id for outcome in second.replies()] == theirs


def test_a_reply_list_nobody_reads_is_cut_at_its_cap(link: Link, client: Client, slot: Slot) -> None:
    # given: the cap is an argument of the script
    slot.queue._finish_args[2] = 3
    # when
    for _ in range(5):
        client.submit(1)
        slot.settle(slot.claim())
    # then
    assert [outcome.id for outcome in client.replies()] == [f"{client.name}-{number}" for number in (3, 4, 5)]


def test_settling_nothing_changes_nothing(link: Link, slot: Slot) -> None:
    assert slot.settle([]) == 0
    assert counters(link) == {}


def codec_value(data: bytes) -> bytes:
    """The bytes inside an outcome's msgpack value."""
    value = msgspec.msgpack.decode(data)
    assert isinstance(value, bytes)
    return value
