"""Paused lanes as Redis keeps them: who paused what, what a claim leaves out, how deadlines pass meanwhile, what a full queue answers."""

from __future__ import annotations

from typing import Any

import pytest

from broker import keys, paused, refusals
from broker.connection import Link
from broker.messages import LANES, Status
from broker.paused import Pause
from broker.spec import Limits
from tests.broker.actors import LIMITS, MODEL, Client, Slot, counted, depths, leases, now_ms, publish
from tests.broker.test_deadlines import pass_by
from tests.wait import wait_until

ANN = Pause("ann@box", "deploy", 1)
LOW = 2


def test_a_pause_says_who_and_why_per_lane_and_stays_under_its_first_name(link: Link) -> None:
    assert paused.pause(link, MODEL, ["low"], ANN) == ["low"]
    assert paused.pause(link, MODEL, LANES, Pause("bob@hut", "", 2)) == ["high", "normal"]
    found = paused.pauses(link, MODEL)
    assert list(found) == list(LANES)
    assert found["low"] == ANN
    assert paused.lanes(link, MODEL) == {0, 1, 2}
    assert paused.told(found) == "lanes high, normal paused by bob@hut, lane low paused by ann@box (deploy)"
    assert paused.resume(link, MODEL, ["high", "low"]) == ["high", "low"]
    assert paused.resume(link, MODEL, ["high", "low"]) == []
    assert list(paused.pauses(link, MODEL)) == ["normal"]


def test_a_pause_of_all_lanes_is_told_in_one_word_and_garbage_is_a_pause_of_nobody_known(link: Link) -> None:
    paused.pause(link, MODEL, LANES, Pause("ann@box", "", 1))
    assert paused.told(paused.pauses(link, MODEL)) == "paused by ann@box"
    link.call("HSET", keys.paused(MODEL), "low", "\xff{", "no lane of ours", "x")
    assert paused.pauses(link, MODEL)["low"] == Pause("unknown", "", 0)
    assert paused.lanes(link, MODEL) == {0, 1, 2}


def test_a_resume_passes_where_redis_is_full(link: Link) -> None:
    paused.pause(link, MODEL, ["low"], ANN)
    link.call("CONFIG", "SET", "maxmemory", 1)
    assert paused.resume(link, MODEL, LANES) == ["low"]


def test_a_claim_leaves_paused_lanes_out_and_what_was_returned_to_them_too(
    link: Link, client: Client, slot: Slot, other: Slot
) -> None:
    # given in each lane a returned lease and a fresh job
    for lane in LANES:
        client.submit(1, lane=lane)
    other.give_back(other.claim(3))
    for lane in LANES:
        client.submit(1, lane=lane)
    # when
    slot.queue.pause({LOW})
    claimed = [job.lane for _ in range(20) for job in slot.claim(3)]
    # then
    assert sorted(claimed) == [0, 0, 1, 1]
    assert len(leases(link, keys.RETURNED)) == 1
    assert slot.queue.read_claim(link.call(*slot.queue.reclaim(9))).jobs == []
    # when it is open again
    slot.queue.pause(())
    assert [job.lane for job in slot.claim(9)] == [LOW, LOW]


def test_a_blocked_read_waits_for_open_lanes_alone(link: Link, client: Client, slot: Slot) -> None:
    slot.queue.pause({1, LOW})
    for lane in LANES:
        client.submit(1, lane=lane)
    read = slot.queue.read_block(link.call(*slot.queue.block(5, 1)))
    assert [job.lane for job in read.jobs] == [0]
    assert slot.queue.read_block(link.call(*slot.queue.block(5, 1))).jobs == []


def test_a_beat_tells_which_lanes_are_paused(link: Link, slot: Slot) -> None:
    def pulse() -> Any:
        return link.call(*slot.queue.pulse("box/0", (), ready_ms=0, failing_ms=0, frees_place=False))[2]

    assert paused.lanes_of(pulse()) == frozenset()
    paused.pause(link, MODEL, ["high", "low"], ANN)
    assert paused.lanes_of(pulse()) == {0, LOW}


# --- deadlines -----------------------------------------------------------------------------------


def expire(link: Link, name: str = "box/0", cursor: str = "-", lane: int = 1) -> tuple[int, str]:
    ended, cursor = link.call(*paused.expire(MODEL, lane, name, cursor))
    return ended, cursor.decode()


def test_a_deadline_that_passes_in_a_paused_lane_ends_the_job_as_expired(
    link: Link, client: Client, slot: Slot, other: Slot
) -> None:
    # given one that was returned, one in a slot's hand, one nobody touched, and two that have time
    sent = client.submit(3, deadline_ms=200)  # time enough to claim two of them
    (returned, _) = slot.claim(2)
    slot.give_back([returned])
    client.submit(1, deadline_ms=60_000)
    client.submit(1)
    pass_by(link, returned.deadline_ms)
    # when
    assert expire(link) == (2, "-")
    # then
    assert {one.id for one in client.replies()} == {sent[0].id, sent[2].id}
    outcome = client.result(sent[2].id)
    assert outcome is not None
    assert outcome.status is Status.EXPIRED
    assert outcome.note["reason"] == "deadline"
    assert "while its lane was paused" in outcome.note["error"]
    assert counted(link, "expired") == (2,)
    assert depths(link) == (0, 3, 0)
    assert [owner for owner, _ in leases(link).values()] == ["box/0.1"]
    assert expire(link) == (0, "-")


def test_bytes_of_a_job_that_expired_while_paused_count_no_more(link: Link, client: Client) -> None:
    (sent,) = client.submit(1, deadline_ms=1)
    assert counted(link, "bytes") == (len(sent.blob),)
    wait_until(lambda: expire(link)[0] == 1, "the deadline has passed")
    assert counted(link, "bytes") == (0,)


def test_only_the_first_of_the_ready_slots_reads_a_paused_lane(link: Link, client: Client, slot: Slot) -> None:
    for name in ("box/0", "box/1"):
        queue = slot.queue
        link.call(*queue.pulse(name, (), ready_ms=60_000, failing_ms=0, frees_place=False))
    client.submit(1, deadline_ms=1)
    pass_by(link, now_ms(link) + 1)
    assert expire(link, "box/1") == (0, "-")
    wait_until(lambda: expire(link, "box/0")[0] == 1, "the first one ends it")


def test_a_long_lane_is_read_page_by_page_and_from_the_front_again(
    link: Link, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paused, "EXPIRE_ENTRIES", 10)
    client.submit(25)
    (last,) = client.submit(1, deadline_ms=1)
    pass_by(link, now_ms(link) + 1)
    cursor, ended, cursors = "-", 0, []
    while not ended:
        ended, cursor = expire(link, cursor=cursor)
        cursors.append(cursor)
    assert cursors[0] != "-" == cursors[-1]
    assert len(cursors) == 2
    assert client.result(last.id) is not None


def test_jobs_expire_in_a_paused_lane_though_redis_is_full(link: Link, client: Client) -> None:
    client.submit(1, deadline_ms=1)
    pass_by(link, now_ms(link) + 1)
    link.call("CONFIG", "SET", "maxmemory", 1)
    wait_until(lambda: expire(link)[0] == 1, "it has expired")


# --- a full queue ----------------------------------------------------------------------------------


def refusal(client: Client, limits: Limits, lane: str = "normal") -> Any:
    answer = client.send(client.blobs(1), lane=lane)
    assert answer.code == "full"
    return refusals.of(answer, MODEL, limits)


def test_a_full_queue_that_is_paused_says_so_and_asks_for_patience(link: Link) -> None:
    limits = Limits(max_jobs=10, max_bytes=LIMITS.max_bytes, payload_limit_bytes=LIMITS.payload_limit_bytes)
    publish(link, limits)
    client = Client(link)
    client.submit(10, lane="low")
    link.call("HSET", keys.counters(MODEL), "rate", 1000)
    assert refusal(client, limits).retry_after_s == 0.05  # half of ten at a thousand a second
    paused.pause(link, MODEL, ["low"], ANN)
    error = refusal(client, limits)
    assert error.retry_after_s == 5.0
    assert f"is paused until `penstock resume {MODEL}`" in str(error)
    assert "raise queue.max_jobs in" in str(error)


def test_what_is_paused_does_not_count_as_backlog_that_drains(link: Link) -> None:
    limits = Limits(max_jobs=200, max_bytes=LIMITS.max_bytes, payload_limit_bytes=LIMITS.payload_limit_bytes)
    publish(link, limits)
    client = Client(link)
    client.submit(180, lane="low")
    client.submit(20, lane="high")
    link.call("HSET", keys.counters(MODEL), "rate", 10)
    assert refusal(client, limits).retry_after_s == 10.0
    paused.pause(link, MODEL, ["low"], ANN)
    error = refusal(client, limits)
    assert error.retry_after_s == 1.0
    assert "paused" not in str(error)
