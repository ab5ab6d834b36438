"""Deadlines count by Redis' time, whatever happens to the job before: waiting, delay, retry, return, cancel."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from broker.connection import Link
from broker.messages import Status
from tests.broker.actors import Client, Slot, counted, delayed, depths, now_ms, pending
from tests.broker.test_delayed import make_due
from tests.wait import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent


def pass_by(link: Link, deadline_ms: int) -> None:
    wait_until(lambda: now_ms(link) > deadline_ms, "the deadline has passed by Redis' time")


def test_a_deadline_passes_by_redis_time_though_the_slots_clock_stands_still(
    link: Link, client: Client, slot: Slot, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: a host whose wall clock is decades behind
    before = now_ms(link)
    client.submit(1, deadline_ms=5)
    client.submit(1, deadline_ms=60_000)
    pass_by(link, now_ms(link) + 5)
    monkeypatch.setattr("time.time", lambda: 0.0)
    # when
    claimed = slot.claimed()
    # then
    (job,) = claimed.jobs
    assert before + 60_000 <= job.deadline_ms <= claimed.now_ms + 60_000
    assert before <= claimed.now_ms <= now_ms(link)
    assert counted(link, "expired") == (1,)


def test_no_code_of_the_pool_reads_a_wall_clock_to_decide_anything() -> None:
    """Only Redis TIME and the monotonic clock: those of two hosts are never compared."""
    found = []
    for folder in ("broker", "producer", "workers"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.time", "time.time_ns"):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_a_delayed_job_that_was_cancelled_never_runs(link: Link, client: Client, slot: Slot) -> None:
    # given
    (sent, other) = client.submit(2, delay_ms=5)
    due = now_ms(link) + 5
    # when
    assert client.cancel(sent) == 1
    pass_by(link, due)
    # then
    assert slot.move() == 1
    assert [job.id for job in slot.claim()] == [other.id]
    assert counted(link, "cancelled", "submitted") == (1, 2)


def test_a_retry_that_is_due_after_its_deadline_expires_instead_of_running(
    link: Link, client: Client, slot: Slot
) -> None:
    # given
    (sent,) = client.submit(1, deadline_ms=100)
    (job,) = slot.claim()
    slot.fail([job], "retry", delay_ms=60_000)
    pass_by(link, job.deadline_ms)
    make_due(link)
    # when
    assert slot.move() == 1
    # then
    assert slot.claim() == []
    (outcome,) = client.replies()
    assert (outcome.id, outcome.status, outcome.note["reason"]) == (sent.id, Status.EXPIRED, "deadline")
    assert outcome.attempt == 2
    assert counted(link, "expired", "retried", "bytes") == (1, 1, 0)
    assert (depths(link), pending(link), delayed(link)) == ((0, 0, 0), {}, 0)


def test_a_returned_job_past_its_deadline_expires_instead_of_running_again(
    link: Link, client: Client, slot: Slot, other: Slot
) -> None:
    # given
    client.submit(1, deadline_ms=100)
    jobs = slot.claim()
    pass_by(link, jobs[0].deadline_ms)
    slot.give_back(jobs, marks=1)
    # then
    assert other.claim() == []
    assert counted(link, "expired", "bytes") == (1, 0)


def test_counters_and_states_stay_exact_when_claimed_jobs_are_cancelled_under_a_batch(
    link: Link, client: Client, slot: Slot
) -> None:
    # given: a batch of ten, some cancelled while it runs
    sent = client.submit(10)
    jobs = slot.claim()
    cancelled = sent[::3]
    assert [client.cancel(job) for job in cancelled] == [1] * 4
    # when: the batch ends: seven done, one retried, two failed, of what was its own and of what was not
    settled = slot.settle(jobs[:7])
    failed = slot.fail(jobs[7:9], "failed")
    retried = slot.fail(jobs[9:], "retry")
    # then
    assert (settled, failed, retried) == (4, 2, 0)
    assert counted(link, "submitted", "done", "failed", "cancelled", "retried", "bytes") == (10, 4, 2, 4, 0, 0)
    assert len(client.replies()) == 10
    assert {client.state(job) for job in cancelled} == {"cancelled"}
    assert (depths(link), pending(link), delayed(link)) == ((0, 0, 0), {}, 0)
