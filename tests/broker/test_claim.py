"""Claiming: priorities, the room asked for, expired jobs ended unrun, bytes nobody can read."""

from __future__ import annotations

import pytest

from broker.connection import Link
from broker.ends import Fault
from broker.messages import LANES, Status
from broker.queue import LOWEST_FIRST_EVERY
from tests.broker.actors import Client, Slot, counted, depths, lane_key, now_ms, pending
from tests.wait import wait_until


def wait_past(link: Link, ms: int) -> None:
    wait_until(lambda: now_ms(link) > ms, "the deadline has passed")


def test_higher_lanes_are_claimed_first(client: Client, slot: Slot) -> None:
    # given
    for lane in reversed(LANES):
        client.submit(2, lane=lane)
    # when
    jobs = slot.claim()
    # then
    assert [job.lane for job in jobs] == [0, 0, 1, 1, 2, 2]


def test_within_a_lane_the_oldest_job_comes_first(client: Client, slot: Slot) -> None:
    sent = client.submit(20)
    assert [job.id for job in slot.claim(7) + slot.claim(100)] == [job.id for job in sent]


def test_every_eighth_claim_starts_at_a_lower_lane_the_lowest_and_the_middle_one_in_turns(
    client: Client, slot: Slot
) -> None:
    # given
    for lane in LANES:
        client.submit(3 * LOWEST_FIRST_EVERY, lane=lane)
    # when
    first = [slot.claim(1)[0].lane for _ in range(2 * LOWEST_FIRST_EVERY)]
    # then
    lower = {number: lane for number, lane in enumerate(first, 1) if lane}
    assert lower == {LOWEST_FIRST_EVERY: 2, 2 * LOWEST_FIRST_EVERY: 1}
    assert first.count(0) == len(first) - 2


@pytest.mark.parametrize("room", [0, 1, 5, 6, 7, 100])
def test_a_claim_brings_no_more_than_there_is_room_for(client: Client, slot: Slot, room: int) -> None:
    # given
    for lane in LANES:
        client.submit(2, lane=lane)
    # then
    assert len(slot.claim(room)) == min(room, 6)


def test_returned_leases_count_towards_the_room(client: Client, slot: Slot, other: Slot) -> None:
    # given
    client.submit(6)
    other.give_back(other.claim(3))
    # when
    jobs = slot.claim(4)
    # then
    assert [job.deliveries for job in jobs] == [1, 1, 1, 1]
    assert len(slot.claim(100)) == 2


def test_returned_leases_come_before_higher_lanes(client: Client, slot: Slot, other: Slot) -> None:
    # given
    client.submit(1, lane="low")
    other.give_back(other.claim())
    client.submit(1, lane="high")
    # then
    assert [job.lane for job in slot.claim()] == [2, 0]


def test_a_job_brings_its_times_and_counts(link: Link, client: Client, slot: Slot) -> None:
    # given
    before = now_ms(link)
    (sent,) = client.submit(1, deadline_ms=60_000, ttl_s=7, retries=2)
    # when
    claimed = slot.claimed()
    # then
    (job,) = claimed.jobs
    assert (job.id, job.entry.decode(), job.size) == (sent.id, sent.entry, len(sent.blob))
    assert (job.attempt, job.deliveries, job.retries, job.result_ttl_s) == (1, 1, 2, 7)
    assert before <= job.submitted_ms <= claimed.now_ms <= now_ms(link)
    assert job.deadline_ms == job.submitted_ms + 60_000


def test_a_blocking_read_brings_the_same_jobs(link: Link, client: Client, slot: Slot) -> None:
    # given
    sent = [client.submit(1, lane=lane)[0] for lane in reversed(LANES)]
    # when
    claimed = slot.queue.read_block(link.call(*slot.queue.block(5, 100)))
    # then
    assert [job.id for job in claimed.jobs] == [job.id for job in reversed(sent)]
    assert slot.queue.read_block(link.call(*slot.queue.block(5, 1))).jobs == []


def test_an_expired_job_is_ended_unrun_and_its_client_is_told(link: Link, client: Client, slot: Slot) -> None:
    # given
    late, alive = client.submit(1, deadline_ms=1)[0], client.submit(1)[0]
    wait_past(link, int(late.entry.partition("-")[0]) + 1)
    # when
    jobs = slot.claim()
    # then
    assert [job.id for job in jobs] == [alive.id]
    (outcome,) = client.replies()
    assert (outcome.id, outcome.status) == (late.id, Status.EXPIRED)
    assert outcome.note["reason"] == "deadline"
    assert "before the forward began" in outcome.note["error"]
    assert client.result(late.id) == outcome
    assert counted(link, "expired", "bytes") == (1, len(alive.blob))
    assert (depths(link), len(pending(link))) == ((0, 1, 0), 1)


def test_expired_jobs_take_no_room(link: Link, client: Client, slot: Slot, other: Slot) -> None:
    # given: three expired in the lane and three among those returned
    client.submit(3, deadline_ms=200)
    other.give_back(other.claim())
    last = client.submit(3, deadline_ms=200)[-1]
    sent = client.submit(4)
    wait_past(link, int(last.entry.partition("-")[0]) + 200)
    # when
    found = [job.id for _ in range(5) for job in slot.claim(2)]
    # then
    assert found == [job.id for job in sent]
    assert counted(link, "expired") == (6,)
    assert len(client.replies()) == 6


def test_a_returned_lease_whose_entry_is_gone_is_dropped(link: Link, client: Client, slot: Slot, other: Slot) -> None:
    # given
    sent = client.submit(2)
    other.give_back(other.claim())
    link.call("XDEL", lane_key("normal"), sent[0].entry)
    # when
    jobs = slot.claim()
    # then
    assert [job.id for job in jobs] == [sent[1].id]
    assert list(pending(link)) == [sent[1].entry]


# --- bytes nobody can read -------------------------------------------------------------------

GARBAGE = {
    "nothing": b"",
    "two bytes": b"\x01\x0d",
    "a head only": b"\x01\x0d\x04\x00",
    "a newer format": b"\x02\x0d\x04\x00\x01\x00\x00\x00\x3c\x00\x00\x00\x00\x00\x00\x00ab-7",
    "no id": b"\x01\x0d\x00\x00\x00\x00\x00\x00\x3c\x00\x00\x00\x00\x00\x00\x00",
    "an id without a client": b"\x01\x0d\x02\x00\x00\x00\x00\x00\x3c\x00\x00\x00\x00\x00\x00\x00-7",
    "an id of no text": b"\x01\x0d\x02\x00\x00\x00\x00\x00\x3c\x00\x00\x00\x00\x00\x00\x00\xff\xfe",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_garbled_job_is_named_and_can_be_buried(link: Link, client: Client, slot: Slot, name: str) -> None:
    # given
    link.call("XADD", lane_key("normal"), "*", "b", GARBAGE[name])
    sent = client.submit(1)
    # when
    claimed = slot.claimed()
    faults = [
        Fault(lease.lane, lease.entry, lease.deliveries, lease.id, lease.ttl_s, "dead", 0, "garbled", b"\x01\x03\x01\x00")
        for lease in claimed.broken
    ]  # fmt: skip
    # then
    assert [job.id for job in claimed.jobs] == [sent[0].id]
    assert link.call(*slot.queue.fail(faults)) == 1
    assert counted(link, "dead") == (1,)
    assert list(pending(link)) == [sent[0].entry]


@pytest.mark.parametrize("name", GARBAGE)
def test_a_garbled_job_past_its_deadline_does_not_stop_the_claim(
    link: Link, client: Client, slot: Slot, name: str
) -> None:
    # given
    link.call("XADD", lane_key("normal"), "*", "b", GARBAGE[name], "m", "1 1 1")
    (sent,) = client.submit(1)
    # when
    claimed = slot.claimed()
    # then
    assert [job.id for job in claimed.jobs] == [sent.id]
    assert depths(link) == (0, 1, 0)
    assert counted(link, "expired") == (1,)
