"""What one run of a trace came to. Data, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import msgspec

from benchmarks.traces.arrivals import NORMAL


class Result(msgspec.Struct, frozen=True):
    """Sojourn times in ms by lane, of the jobs that were run; jobs that ended in time, and late or unrun."""

    sojourns: tuple[list[float], ...]
    in_time: int
    late: int
    batches: int
    ended_ms: float

    def of(self, lane: int | None) -> list[float]:
        """One lane's, or all."""
        return [ms for one in self.sojourns for ms in one] if lane is None else self.sojourns[lane]

    def mean(self, lane: int | None = NORMAL) -> float:
        return fmean(self.of(lane)) if self.of(lane) else 0.0

    def p99(self, lane: int | None = NORMAL) -> float:
        return p99(self.of(lane))

    def per_s(self, lane: int | None = NORMAL) -> float:
        return len(self.of(lane)) / self.ended_ms * 1e3

    @property
    def kept(self) -> float:
        """Share of the jobs that ended in time."""
        return self.in_time / max(1, self.in_time + self.late)


def p99(times: Sequence[float]) -> float:
    """0 of none."""
    ordered = sorted(times)
    return ordered[int(0.99 * len(ordered))] if ordered else 0.0
