"""T: how long a forward of each size takes, from the warm-up and the last forwards; what counts as a hang follows from it.

A size is (padded rows, dims). Pure: takes milliseconds, gives milliseconds and limits, reads no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import ceil, prod
from operator import ge
from statistics import median

from workers.exchange import Timed

Size = tuple[int, tuple[int, ...]]
KEPT = 128  # of the last forwards of one size


class Timetable:
    """Recent times of each size. An unknown size counts as the nearest larger known one, or as the largest."""

    def __init__(self, times: Iterable[Timed] = (), *, floor_s: float, factor: float) -> None:
        """`times` of the warm-up. A forward hangs when it takes `factor` times its p99, and `floor_s` at least."""
        self.floor_s = floor_s
        self._factor = factor
        self._times: dict[Size, deque[float]] = {}
        for one in times:
            self.note(one.rows, tuple(one.dims), one.ms)

    def note(self, rows: int, dims: tuple[int, ...], ms: float) -> None:
        """One more forward."""
        recent = self._times.get((rows, dims))
        if recent is None:
            recent = self._times[rows, dims] = deque(maxlen=KEPT)
        recent.append(ms)

    def median_ms(self, rows: int, dims: tuple[int, ...]) -> float | None:
        """None while no size is known."""
        return max(map(median, self._standing_for(rows, dims)), default=None)

    def p99_ms(self, rows: int, dims: tuple[int, ...]) -> float | None:
        """None while no size is known; of fewer than a hundred forwards it is the slowest."""
        return max(map(_p99, self._standing_for(rows, dims)), default=None)

    def hang_limit_s(self, rows: int, dims: tuple[int, ...]) -> float:
        """How long a forward of this size may be silent."""
        return max(self.floor_s, self._factor * (self.p99_ms(rows, dims) or 0.0) / 1e3)

    def _standing_for(self, rows: int, dims: tuple[int, ...]) -> list[deque[float]]:
        """The times of this size, or of the nearest larger one. Raw input has no dims before the engine made its tensors: however
        quick it was so far, it may become the largest there are."""
        own = self._times.get((rows, dims))
        found = [own] if own is not None else []
        others = [size for size in self._times if len(size[1]) != len(dims)]
        if others:
            enough = min((size[0] for size in others if size[0] >= rows), default=max(size[0] for size in others))
            found.append(self._times[max((size for size in others if size[0] == enough), key=_cells)])
        elif own is None and self._times:
            larger = [size for size in self._times if size[0] >= rows and all(map(ge, size[1], dims))]
            found.append(self._times[min(larger, key=_cells) if larger else max(self._times, key=_cells)])
        return found


def _p99(recent: deque[float]) -> float:
    return sorted(recent)[ceil(0.99 * len(recent)) - 1]


def _cells(size: Size) -> int:
    return size[0] * prod(size[1])
