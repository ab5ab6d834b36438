"""Delayed jobs and retries: where they wait, what they keep, when they move into their lane."""

from __future__ import annotations

import pytest

from broker import keys
from broker.connection import Link
from tests.broker.actors import MODEL, Client, Slot, counted, delayed, depths, now_ms
from tests.wait import wait_until


def make_due(link: Link) -> None:
    """What waiting does: every delayed job is due."""
    for job in link.call("ZRANGE", keys.delayed(MODEL), 0, -1):
        link.call("ZADD", keys.delayed(MODEL), 1, job)


def test_a_delayed_job_stays_until_it_is_due(link: Link, client: Client, slot: Slot) -> None:
    # given
    client.submit(2, delay_ms=60_000)
    # then
    assert slot.move() == 0
    assert slot.claim() == []
    assert (delayed(link), sum(depths(link))) == (2, 0)


@pytest.mark.parametrize("lane", ["high", "normal", "low"])
def test_a_delayed_job_moves_into_its_own_lane_when_due(link: Link, client: Client, slot: Slot, lane: str) -> None:
    # given
    (sent,) = client.submit(1, lane=lane, delay_ms=1)
    # when
    assert wait_until(slot.move, "the job is due") == 1
    # then
    (job,) = slot.claim()
    assert (job.id, job.lane, job.attempt, job.deliveries, job.data) == (sent.id, sent.lane - 1, 1, 1, sent.blob)
    assert delayed(link) == 0
    assert counted(link, "bytes") == (len(sent.blob),)


def test_the_wait_of_a_delayed_job_is_measured_from_when_it_was_due(link: Link, client: Client, slot: Slot) -> None:
    # given
    before = now_ms(link)
    client.submit(1, delay_ms=5000)
    after = now_ms(link)
    make_due(link)
    # when
    slot.move()
    # then
    (job,) = slot.claim()
    assert before + 5000 <= job.submitted_ms <= after + 5000


def test_a_retry_comes_back_with_one_attempt_more_and_its_first_submit_and_deadline(
    link: Link, client: Client, slot: Slot
) -> None:
    # given
    client.submit(1, lane="high", deadline_ms=60_000)
    (first,) = slot.claim()
    # when
    assert slot.fail([first], "retry", delay_ms=60_000) == 1
    assert (delayed(link), sum(depths(link))) == (1, 0)
    assert slot.move() == 0
    make_due(link)
    assert slot.move() == 1
    # then
    (second,) = slot.claim()
    assert (second.id, second.lane, second.data) == (first.id, first.lane, first.data)
    assert (second.attempt, second.deliveries) == (2, 1)
    assert (second.submitted_ms, second.deadline_ms) == (first.submitted_ms, first.deadline_ms)
    assert second.entry != first.entry
    assert counted(link, "retried", "bytes") == (1, second.size)
    assert client.replies() == []


def test_attempts_add_up_over_many_retries(client: Client, slot: Slot) -> None:
    # given
    client.submit(1)
    (first,) = slot.claim()
    jobs = [first]
    # when
    for attempt in range(2, 12):
        slot.fail(jobs, "retry")
        assert wait_until(slot.move, "the retry is due") == 1
        jobs = slot.claim()
        assert [(job.attempt, job.submitted_ms) for job in jobs] == [(attempt, first.submitted_ms)]
    # then
    assert slot.settle(jobs) == 1
    assert client.replies()[0].attempt == 11


def test_a_late_outcome_of_an_attempt_before_changes_nothing(link: Link, client: Client, slot: Slot) -> None:
    # given
    client.submit(1)
    first = slot.claim()
    slot.fail(first, "retry")
    # then: while it is delayed, and when it is in its lane again
    assert slot.settle(first) == 0
    wait_until(slot.move, "the retry is due")
    assert slot.settle(first) == 0
    assert slot.fail(first, "dead") == 0
    assert slot.settle(slot.claim()) == 1
    assert counted(link, "done", "dead") == (1, 0)


def test_at_most_the_number_asked_for_moves_at_once(link: Link, client: Client, slot: Slot) -> None:
    # given
    client.submit(5, delay_ms=60_000)
    make_due(link)
    # then
    moved = [link.call(*slot.queue.move(2)) for _ in range(4)]
    assert moved == [2, 2, 1, 0]
    assert sum(depths(link)) == 5


def test_where_a_moved_job_went_is_known_until_it_ends(link: Link, client: Client, slot: Slot) -> None:
    # given
    (sent,) = client.submit(1, delay_ms=60_000)
    make_due(link)
    # when
    slot.move()
    # then
    assert client.state(sent) == "waiting"
    assert 0 < link.call("PTTL", keys.moved(MODEL)) <= keys.MOVED_TTL_MS
    slot.settle(slot.claim())
    assert client.state(sent) == "done"
    assert link.call("EXISTS", keys.moved(MODEL)) == 0


def test_a_delayed_job_past_its_deadline_is_ended_unrun_when_it_moved(link: Link, client: Client, slot: Slot) -> None:
    # given
    client.submit(1, delay_ms=1, deadline_ms=2)
    due = now_ms(link) + 3
    wait_until(lambda: now_ms(link) > due, "the deadline has passed")
    # when
    slot.move()
    # then
    assert slot.claim() == []
    assert counted(link, "expired", "bytes") == (1, 0)
