"""Cancelling a job wherever it is; a late outcome then changes nothing. Finding where a job is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker import keys
from broker.connection import Link
from broker.messages import Job, Status
from tests.broker.actors import MODEL, Client, Sent, Slot, counted, delayed, depths, pending
from tests.wait import wait_until

Bring = Callable[[Client, Slot], tuple[Sent, list[Job]]]


def waiting(client: Client, slot: Slot) -> tuple[Sent, list[Job]]:
    return client.submit(1, lane="low")[0], []


def claimed(client: Client, slot: Slot) -> tuple[Sent, list[Job]]:
    return client.submit(1)[0], slot.claim()


def delayed_by_its_client(client: Client, slot: Slot) -> tuple[Sent, list[Job]]:
    return client.submit(1, delay_ms=60_000)[0], []


def waiting_for_its_retry(client: Client, slot: Slot) -> tuple[Sent, list[Job]]:
    (sent,) = client.submit(1)
    jobs = slot.claim()
    slot.fail(jobs, "retry", delay_ms=60_000)
    return sent, jobs


def returned(client: Client, slot: Slot) -> tuple[Sent, list[Job]]:
    sent, jobs = claimed(client, slot)
    slot.give_back(jobs)
    return sent, jobs


def moved(client: Client, slot: Slot) -> tuple[Sent, list[Job]]:
    (sent,) = client.submit(1, lane="high", delay_ms=1)
    wait_until(slot.move, "the job is due")
    return sent, []


def moved_and_claimed(client: Client, slot: Slot) -> tuple[Sent, list[Job]]:
    sent, _ = moved(client, slot)
    return sent, slot.claim()


def retried_and_claimed(client: Client, slot: Slot) -> tuple[Sent, list[Job]]:
    (sent,) = client.submit(1)
    first = slot.claim()
    slot.fail(first, "retry")
    wait_until(slot.move, "the retry is due")
    return sent, first + slot.claim()


PLACES: dict[Bring, str] = {
    waiting: "waiting", claimed: "claimed", delayed_by_its_client: "delayed", waiting_for_its_retry: "delayed",
    returned: "waiting", moved: "waiting", moved_and_claimed: "claimed", retried_and_claimed: "claimed",
}  # fmt: skip


@pytest.mark.parametrize("bring", PLACES, ids=lambda bring: bring.__name__)
def test_a_job_is_cancelled_wherever_it_is_and_late_outcomes_change_nothing(
    link: Link, client: Client, slot: Slot, bring: Bring
) -> None:
    # given
    sent, jobs = bring(client, slot)
    # when
    assert client.cancel(sent) == 1
    # then
    (outcome,) = client.replies()
    assert (outcome.id, outcome.status, outcome.note["reason"]) == (sent.id, Status.CANCELLED, "cancelled")
    assert client.result(sent.id) == outcome
    assert (depths(link), pending(link), delayed(link)) == ((0, 0, 0), {}, 0)
    # when: whoever held it is done, or fails, or gives it back
    assert slot.settle(jobs) == slot.fail(jobs, "dead") == slot.fail(jobs, "retry") == slot.give_back(jobs) == 0
    slot.move()
    assert slot.claim() == []
    # then
    assert counted(link, "cancelled", "done", "dead", "bytes") == (1, 0, 0, 0)
    assert client.replies() == []
    assert client.state(sent) == "cancelled"


@pytest.mark.parametrize("bring", PLACES, ids=lambda bring: bring.__name__)
def test_a_job_is_found_wherever_it_is(client: Client, slot: Slot, bring: Bring) -> None:
    sent, _ = bring(client, slot)
    assert client.state(sent) == PLACES[bring]


@pytest.mark.parametrize("fate", ["done", "failed", "dead", "expired"])
def test_an_ended_job_is_found_ended_and_cannot_be_cancelled(link: Link, client: Client, slot: Slot, fate: str) -> None:
    # given
    (sent,) = client.submit(1)
    jobs = slot.claim()
    assert (slot.settle(jobs) if fate == "done" else slot.fail(jobs, fate)) == 1  # type: ignore[arg-type]
    # then
    assert client.cancel(sent) == 0
    assert client.state(sent) == fate
    assert counted(link, "cancelled") == (0,)


def test_cancelling_twice_counts_once(link: Link, client: Client) -> None:
    (sent,) = client.submit(1)
    assert [client.cancel(sent), client.cancel(sent)] == [1, 0]
    assert counted(link, "cancelled") == (1,)


def test_a_job_nobody_knows_is_unknown_and_not_cancelled(client: Client) -> None:
    nobody = Sent(f"{client.name}-99", 0, "", b"")
    assert client.cancel(nobody) == 0
    assert client.state(nobody) == "unknown"


def test_an_entry_that_holds_another_job_is_left_alone(link: Link, client: Client) -> None:
    # given: a handle with the place of another job
    mine, theirs = client.submit(2)
    # when
    assert client.cancel(Sent(mine.id, mine.lane, theirs.entry, b"")) == 0
    # then
    assert depths(link) == (0, 2, 0)


def test_an_unstored_job_that_is_cancelled_is_only_replied(link: Link, client: Client) -> None:
    (sent,) = client.submit(1, is_stored=False)
    client.cancel(sent)
    assert link.call("EXISTS", keys.result(MODEL, sent.id)) == 0
    assert [outcome.status for outcome in client.replies()] == [Status.CANCELLED]
