"""A job's failure as Redis is told of it: what becomes of the job, and the outcome its waiter reads."""

from __future__ import annotations

from broker import codec
from broker.messages import Job, Status
from broker.queue import Fate, Fault, Lease


def fault_of(job: Job, fate: Fate, *, reason: str, text: str, now_ms: float) -> Fault:
    """A job's final failure with the outcome that tells it."""
    status = {"dead": Status.DEAD, "expired": Status.EXPIRED}.get(fate, Status.FAILED)
    total_ms = max(0.0, now_ms - job.submitted_ms)
    outcome = codec.encode_failure(job, status, reason=reason, text=text, total_ms=total_ms)
    return Fault.of(job, fate, reason=reason, outcome=outcome)


def broken(lease: Lease) -> Fault:
    """The end of an entry that could not be decoded: dead, with the reason."""
    note = {"reason": "undecodable", "error": lease.error}
    times = (0.0, 0.0, 0.0, 0.0)
    outcome = codec.encode_outcome(lease.id, int(Status.DEAD), attempt=lease.attempt, timings=times, note=note)
    return Fault(lease.lane, lease.entry, lease.deliveries, lease.id, lease.ttl_s, "dead", 0, "undecodable", outcome)
