"""Failing: only the owner at its own delivery may; retries wait, the dead are kept as they were submitted."""

from __future__ import annotations

import pytest

from broker import keys
from broker.connection import Link
from broker.messages import Status
from tests.broker.actors import MODEL, Client, Slot, counted, dead_entries, delayed, depths, now_ms, pending


@pytest.mark.parametrize("fate", ["failed", "dead", "expired"])
def test_a_failed_job_ends_with_its_error(link: Link, client: Client, slot: Slot, fate: str) -> None:
    # given
    (sent,) = client.submit(1)
    # when
    assert slot.fail(slot.claim(), fate) == 1  # type: ignore[arg-type]
    # then
    (outcome,) = client.replies()
    assert (outcome.id, outcome.status) == (sent.id, Status[fate.upper()])
    assert outcome.note == {"reason": "test", "error": f"{fate} on purpose"}
    assert client.result(sent.id) == outcome
    assert counted(link, fate, "bytes") == (1, 0)
    assert (depths(link), pending(link), delayed(link)) == ((0, 0, 0), {}, 0)
    assert client.state(sent) == fate


def test_a_dead_job_is_kept_as_it_was_submitted(link: Link, client: Client, slot: Slot, other: Slot) -> None:
    # given: two crash marks
    before = now_ms(link)
    (sent,) = client.submit(1, lane="low", deadline_ms=60_000)
    for _ in range(2):
        slot.claim()
        other.take_over(slot.name)
    # when
    other.fail(other.claim(), "dead")
    # then
    (entry,) = dead_entries(link)
    assert entry["job"] == sent.blob
    assert (entry["id"], entry["reason"], entry["lane"]) == (sent.id.encode(), b"test", b"3")
    assert (entry["attempts"], entry["deliveries"]) == (b"1", b"3")
    assert before <= int(entry["submitted_ms"]) <= now_ms(link)


def test_a_dead_letter_goes_after_a_month_when_the_next_one_comes_and_is_counted(
    link: Link, client: Client, slot: Slot
) -> None:
    # given
    month_ms = 30 * 24 * 3600 * 1000
    link.call("XADD", keys.dead(MODEL), f"{now_ms(link) - month_ms - 1000}-0", "id", "old-1")
    link.call("XADD", keys.dead(MODEL), f"{now_ms(link) - month_ms + 60_000}-0", "id", "young-1")
    (sent,) = client.submit(1)
    # when
    slot.fail(slot.claim(), "dead")
    # then
    assert [entry["id"] for entry in dead_entries(link)] == [b"young-1", sent.id.encode()]
    assert counted(link, "dead_dropped") == (1,)


def test_only_dead_jobs_are_buried(link: Link, client: Client, slot: Slot) -> None:
    client.submit(2)
    slot.fail(slot.claim(), "failed")
    assert dead_entries(link) == []


def test_a_job_another_slot_holds_cannot_be_failed(link: Link, client: Client, slot: Slot, other: Slot) -> None:
    # given
    client.submit(1)
    jobs = slot.claim()
    # then
    assert other.fail(jobs, "dead") == 0
    assert other.fail(jobs, "retry") == 0
    assert counted(link, "dead", "retried") == (0, 0)
    assert slot.settle(jobs) == 1


def test_a_zombies_failure_is_ignored_and_its_success_is_accepted_if_first(
    link: Link, client: Client, slot: Slot, other: Slot
) -> None:
    # given: the zombie lost its lease to another slot
    client.submit(2)
    jobs = slot.claim()
    other.take_over(slot.name)
    theirs = other.claim()
    # when
    assert slot.fail(jobs, "dead") == 0
    assert slot.fail(jobs, "retry") == 0
    assert slot.settle(jobs[:1]) == 1
    # then
    assert other.settle(theirs) == 1
    assert counted(link, "done", "dead", "retried") == (2, 0, 0)


def test_a_failure_at_an_earlier_delivery_is_ignored(link: Link, client: Client, slot: Slot, other: Slot) -> None:
    # given: the same consumer got the job a second time
    client.submit(1)
    first = slot.claim()
    slot.give_back(first, marks=1)
    second = slot.claim()
    assert [job.deliveries for job in first + second] == [1, 2]
    # then
    assert slot.fail(first, "dead") == 0
    assert slot.fail(second, "failed") == 1
    assert counted(link, "dead", "failed") == (0, 1)


def test_a_job_that_was_returned_cannot_be_failed(client: Client, slot: Slot) -> None:
    client.submit(1)
    jobs = slot.claim()
    slot.give_back(jobs)
    assert slot.fail(jobs, "failed") == 0


def test_a_mixed_command_applies_what_is_ours(link: Link, client: Client, slot: Slot, other: Slot) -> None:
    # given
    client.submit(5)
    jobs = slot.claim()
    slot.settle(jobs[:1])
    slot.give_back(jobs[1:2])
    other.claim(1)
    # then
    assert slot.fail(jobs, "failed") == 3
    assert counted(link, "failed", "done") == (3, 1)
    assert len(client.replies()) == 4


def test_a_failure_leaves_no_bytes_behind(link: Link, client: Client, slot: Slot) -> None:
    # given
    client.submit(3, b"x" * 5000)
    jobs = slot.claim()
    # when
    slot.fail(jobs[:1], "failed")
    slot.fail(jobs[1:2], "dead")
    slot.fail(jobs[2:], "retry", delay_ms=60_000)
    # then: the retry is still queued
    assert counted(link, "bytes") == (jobs[2].size,)
    assert link.call("HLEN", keys.delayed_bodies(MODEL)) == 1


def test_an_unstored_failure_is_only_replied(client: Client, slot: Slot) -> None:
    (sent,) = client.submit(1, is_stored=False)
    slot.fail(slot.claim(), "failed")
    assert client.result(sent.id) is None
    assert [outcome.status for outcome in client.replies()] == [Status.FAILED]
