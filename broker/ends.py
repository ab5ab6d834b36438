"""Jobs that are done or have failed, as a slot tells Redis of them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from struct import pack
from typing import Any, Literal

import msgspec

from broker.lease import lease_of
from broker.messages import Job
from broker.outcome_codec import FRAME

FIRST_ENTRY = 13  # in ARGV, where no body stands apart

Fate = Literal["retry", "failed", "dead", "expired"]


class Ended(msgspec.Struct, frozen=True, gc=False):
    """One job's outcome, encoded, ready to settle."""

    job: Job
    outcome: bytes


class Fault(msgspec.Struct, frozen=True, gc=False):
    """One job's failure: what to do with it, and the outcome if that is final."""

    lane: int
    entry: bytes
    deliveries: int
    id: str
    ttl_s: int
    fate: Fate
    delay_ms: int
    reason: str
    outcome: bytes

    @property
    def lease(self) -> bytes:
        return lease_of(self.lane, self.entry)

    @classmethod
    def of(cls, job: Job, fate: Fate, *, reason: str, outcome: bytes = b"", delay_ms: int = 0) -> Fault:
        ttl_s = job.result_ttl_s if job.is_stored else 0
        return cls(job.lane, job.entry, job.deliveries, job.id, ttl_s, fate, delay_ms, reason, outcome)


def settle_arguments(ended: Iterable[Ended], inline_limit_bytes: int) -> list[Any]:
    """ARGV of settle.lua behind those of finish.lua. Outcomes above the limit stand alone in a key: they go unframed, as each copy counts.

    What a job costs here is paid tens of thousands of times a second.
    """
    lanes: tuple[list[Ended], ...] = ([], [], [])
    for one in ended:
        lanes[one.job.lane].append(one)
    ordered = [*chain(*lanes)]
    bodies = [(at, one.job.body) for at, one in enumerate(ordered) if one.job.body is not None]
    args: list[Any] = [*map(len, lanes), len(bodies)]
    for at, body in bodies:
        args += (FIRST_ENTRY + 3 * len(bodies) + at, body.token, body.name)
    frame = FRAME.pack
    sizes, ttls, outcomes = [], [], []
    for one in ordered:
        job, outcome = one.job, one.outcome
        sizes.append(job.size)
        ttl_s = job.result_ttl_s if job.is_stored else 0
        if len(outcome) <= inline_limit_bytes:
            outcomes.append(frame(len(outcome)) + outcome)
        else:
            outcomes.append(outcome)
            ttl_s = -1 - ttl_s
        ttls.append(ttl_s)
    args += (sum(sizes), pack(f"<{len(sizes)}d", *sizes))
    if ttls and ttls[0] >= 0 and ttls.count(ttls[0]) == len(ttls):
        args += (ttls[0], b"")
    else:
        args += ("", pack(f"<{len(ttls)}d", *ttls))
    args += [one.job.entry for one in ordered]
    args += outcomes
    return args
