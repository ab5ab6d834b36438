"""Leases: given back, renewed, lost, taken over from the dead. Sweeping is in test_sweep."""

from __future__ import annotations

import pytest

from broker import keys
from broker.connection import Link
from broker.queue import TAKE_OVER_AT_ONCE
from tests.broker.actors import Client, Slot, age, groups_consumers, lane_key, pending

# --- given back ------------------------------------------------------------------------------


@pytest.mark.parametrize(("marks", "deliveries"), [(0, 1), (1, 2)])
def test_a_lease_given_back_keeps_or_raises_its_count(
    link: Link, client: Client, slot: Slot, other: Slot, marks: int, deliveries: int
) -> None:
    # given
    (sent,) = client.submit(1)
    # when
    assert slot.give_back(slot.claim(), marks=marks) == 1
    # then
    assert pending(link) == {sent.entry: (keys.RETURNED, deliveries)}
    (job,) = other.claim()
    assert (job.id, job.deliveries, job.attempt) == (sent.id, deliveries, 1)
    assert pending(link) == {sent.entry: (other.name, deliveries)}


def test_crash_marks_add_up(client: Client, slot: Slot) -> None:
    # given
    client.submit(1)
    # when
    seen = []
    for marks in (1, 0, 1, 0, 0, 1):
        jobs = slot.claim()
        seen.append(jobs[0].deliveries)
        slot.give_back(jobs, marks=marks)
    # then
    assert seen == [1, 2, 2, 3, 3, 3]


def test_only_leases_still_held_are_given_back(link: Link, client: Client, slot: Slot, other: Slot) -> None:
    # given
    client.submit(3)
    jobs = slot.claim()
    slot.settle(jobs[:1])
    other.take_over(slot.name, marks=0)
    (theirs,) = other.claim(1)
    # then
    assert slot.give_back(jobs, marks=1) == 0
    assert pending(link)[theirs.entry.decode()] == (other.name, 1)


# --- renewed, lost, ghosts -------------------------------------------------------------------


def idle_ms(link: Link, entry: bytes) -> int:
    return int(link.call("XPENDING", lane_key("normal"), keys.GROUP, entry, entry, 1)[0][2])


def test_a_pulse_renews_leases_without_raising_their_count(link: Link, client: Client, slot: Slot) -> None:
    # given
    client.submit(1)
    jobs = slot.claim()
    age(link, jobs, slot.name, idle_ms=50_000)
    assert idle_ms(link, jobs[0].entry) >= 50_000
    # when
    assert slot.pulse(jobs) == 0
    # then
    assert idle_ms(link, jobs[0].entry) < 10_000
    assert pending(link)[jobs[0].entry.decode()] == (slot.name, 1)


def test_a_pulse_counts_lost_leases_and_leaves_them_to_their_owner(
    link: Link, client: Client, slot: Slot, other: Slot
) -> None:
    # given: one is settled by another, one is taken, one is returned, one is ours
    client.submit(4)
    jobs = slot.claim()
    other.settle(jobs[:1])
    link.call("XCLAIM", lane_key("normal"), keys.GROUP, other.name, 0, jobs[1].entry, "JUSTID")
    age(link, jobs[1:2], other.name, idle_ms=50_000)
    slot.give_back(jobs[2:3])
    # when
    assert slot.pulse(jobs) == 3
    # then
    assert idle_ms(link, jobs[1].entry) >= 50_000
    assert [owner for owner, _ in pending(link).values()] == [other.name, keys.RETURNED, slot.name]


def test_a_job_handed_to_a_dead_connection_shows_among_our_own_pending_ids(
    redis_url: str, link: Link, client: Client, slot: Slot
) -> None:
    # given: a ghost, claimed by a command whose answer nobody read
    held, ghost = client.submit(2)
    jobs = slot.claim(1)
    dying = Link(redis_url)
    dying.connect()
    dying.send(slot.queue.claim(1))
    dying.close()
    # when
    replies = link.call_all(slot.queue.pending())
    # then
    ours = {lease[0].decode() for reply in replies for lease in reply}
    assert ours - {job.entry.decode() for job in jobs} == {ghost.entry}
    link.call(*slot.queue.give_back([(1, ghost.entry.encode())], marks=0))
    assert [job.id for job in slot.claim()] == [ghost.id]
    assert held.id == jobs[0].id


# --- taken over ------------------------------------------------------------------------------


def test_a_take_over_returns_every_lease_of_the_dead_and_deletes_them(
    link: Link, client: Client, slot: Slot, other: Slot
) -> None:
    # given: more than one call of the script handles, over two lanes
    count = TAKE_OVER_AT_ONCE + 100
    for lane in ("normal", "low"):
        for _ in range(count // 200):
            client.submit(200, lane=lane)
    dead = slot.claim(10_000)
    assert len(dead) == 1200
    # when
    assert other.take_over(slot.name) == 1200
    # then
    assert groups_consumers(link) == groups_consumers(link, "low") == {keys.RETURNED}
    assert set(pending(link).values()) == {(keys.RETURNED, 2)}
    assert sorted(job.id for job in other.claim(10_000)) == sorted(job.id for job in dead)


@pytest.mark.parametrize("count", [TAKE_OVER_AT_ONCE - 1, TAKE_OVER_AT_ONCE, TAKE_OVER_AT_ONCE + 1])
def test_no_lease_is_dropped_at_the_edge_of_one_call(
    link: Link, client: Client, slot: Slot, other: Slot, count: int
) -> None:
    client.submit(count)
    slot.claim(count)
    assert other.take_over(slot.name, marks=0) == count
    assert len(pending(link)) == count
    assert groups_consumers(link) == {keys.RETURNED}


def test_several_dead_incarnations_are_taken_over_at_once(link: Link, client: Client) -> None:
    # given
    dead = [Slot(link, f"box/0.{number}") for number in range(5)]
    client.submit(10)
    for one in dead:
        one.claim(2)
    heir = Slot(link, "box/0.9")
    # when
    assert heir.queue.consumers(link) == {one.name for one in dead}
    assert heir.take_over(*heir.queue.consumers(link)) == 10
    # then
    assert heir.queue.consumers(link) == set()
    assert len(heir.claim()) == 10


def test_a_take_over_leaves_the_living_alone(link: Link, client: Client, slot: Slot, other: Slot) -> None:
    client.submit(4)
    slot.claim(2)
    theirs = other.claim(2)
    assert Slot(link, "box/0.2").take_over(slot.name) == 2
    assert set(pending(link, other.name)) == {job.entry.decode() for job in theirs}


def test_taking_over_someone_unknown_does_nothing(client: Client, slot: Slot) -> None:
    client.submit(1)
    assert slot.take_over("box/7.1") == 0
    assert slot.take_over() == 0
