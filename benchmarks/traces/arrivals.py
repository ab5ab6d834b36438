"""Seeded traces of jobs that arrive at an open loop: (ms, lane, deadline after arrival or 0); senders of a closed one. Data, no clock."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

HIGH, NORMAL, LOW = range(3)


class Arrival(msgspec.Struct, frozen=True, order=True):
    """One job that is submitted at `at_ms`; `deadline_ms` after that it is worthless, 0: never. `sender`: whose, where that one waits for it."""

    at_ms: float
    lane: int = NORMAL
    deadline_ms: float = 0.0
    rows: int = 1
    sender: int = -1


class Waits(msgspec.Struct, frozen=True):
    """A sender that sends its next job so long after the last one's answer; the first one so long after the begin."""

    lane: int
    rows: int
    deadline_ms: float
    gaps_ms: Sequence[float]


def poisson(per_s: float, seconds: float, *, seed: int, lane: int = NORMAL, deadline_ms: float = 0.0) -> list[Arrival]:
    """Independent arrivals."""
    draw = random.Random(seed)
    at, found = 0.0, []
    while at < seconds * 1e3:
        at += draw.expovariate(per_s / 1e3)
        found.append(Arrival(at, lane, deadline_ms))
    return found


def bursts(
    per_s: float, seconds: float, *, size: int, within_ms: float, seed: int, lane: int = NORMAL
) -> list[Arrival]:
    """`size` jobs one after the other within `within_ms`, then a pause; `per_s` over all."""
    draw = random.Random(seed)
    at, found = 0.0, []
    while at < seconds * 1e3:
        at += draw.expovariate(per_s / size / 1e3)
        found += [Arrival(at + draw.uniform(0, within_ms), lane) for _ in range(size)]
    return sorted(found)


def backlog(jobs: int, *, lane: int) -> list[Arrival]:
    """All at once."""
    return [Arrival(0.0, lane)] * jobs
