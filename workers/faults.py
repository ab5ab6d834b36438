"""A job's failure as Redis is told of it: what becomes of the job, and the outcome its waiter reads."""

from __future__ import annotations

import random

import structlog

from broker import outcome_codec
from broker.claimed import Lease
from broker.ends import Fate, Fault
from broker.messages import Job, Status
from workers.failures import RETRIES_EXHAUSTED, backoff_ms, policy_of

log = structlog.get_logger()


def fault_by(job: Job, reason: str, text: str, *, now_ms: float) -> Fault:
    """What becomes of a job that is at fault itself, by the table: another try, its failure, or its death.

    A job that asked for retries and had them all is dead: it can be replayed once what it waited for is back.
    """
    policy = policy_of(reason)
    if policy.is_retried and job.attempt <= job.retries:
        delay_ms = backoff_ms(policy, job.attempt, random.random())
        log.warning("job postponed", job=job.id, error=text, attempt=job.attempt, retry_in_s=delay_ms / 1e3)
        return Fault.of(job, "retry", reason=reason, delay_ms=delay_ms)
    log.warning("job failed", job=job.id, error=text, next="its outcome says so; the slot goes on")
    if policy.is_retried and job.retries:
        text = f"{reason} in all {job.attempt} attempts, the last: {text}"
        return fault_of(job, "dead", reason=RETRIES_EXHAUSTED, text=text, now_ms=now_ms)
    return fault_of(job, policy.ends, reason=policy.alone_reason or reason, text=text, now_ms=now_ms)


def fault_of(job: Job, fate: Fate, *, reason: str, text: str, now_ms: float) -> Fault:
    """A job's final failure with the outcome that tells it."""
    status = {"dead": Status.DEAD, "expired": Status.EXPIRED}.get(fate, Status.FAILED)
    total_ms = max(0.0, now_ms - job.submitted_ms)
    outcome = outcome_codec.encode_failure(job, status, reason=reason, text=text, total_ms=total_ms)
    return Fault.of(job, fate, reason=reason, outcome=outcome)


def broken(lease: Lease) -> Fault:
    """The end of an entry that could not be decoded, or must not be: dead, with the reason."""
    note = {"reason": lease.reason, "error": lease.error}
    times = (0.0, 0.0, 0.0, 0.0)
    outcome = outcome_codec.encode(lease.id, int(Status.DEAD), attempt=lease.attempt, timings=times, note=note)
    return Fault(lease.lane, lease.entry, lease.deliveries, lease.id, lease.ttl_s, "dead", 0, lease.reason, outcome)
