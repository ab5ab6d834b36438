"""T: how long a forward of each size takes, from the warm-up and the last forwards; what counts as a hang follows from it.

A size is (padded rows, dims). Pure: takes milliseconds, gives milliseconds and limits, reads no clock. Two questions, two
answers: `typical_ms` is what to plan with, and says None rather than guess wildly; `p99_ms` is what to be patient with, and
takes the slowest that could be meant.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator
from math import ceil, prod
from operator import ge

from broker.timetable import Dims, Learned
from workers.exchange import Timed

Size = tuple[int, Dims]
KEPT = 128  # of the last forwards of one size
BROUGHT = 8  # a life before counts as so many forwards, so that a few dozen of this one outweigh it


class Timetable:
    """Recent times of each size. An unknown size counts as the nearest larger known one, or as the largest."""

    def __init__(
        self, times: Iterable[Timed] = (), *, floor_s: float, factor: float, learned: Iterable[Learned] = ()
    ) -> None:
        """`times` of the warm-up, on top of what earlier lives `learned`.

        A forward hangs when it takes `factor` times its p99, and `floor_s` at least.
        """
        self.floor_s = floor_s
        self.notes = 0  # forwards noted in this life, without the warm-up's
        self._factor = factor
        self._times: dict[Size, Recent] = {}
        for size in learned:
            recent = self._times[size.rows, size.dims] = Recent()
            for ms in (*[size.median_ms] * (BROUGHT - 1), max(size.median_ms, size.p99_ms)):
                recent.note(ms)
        for one in times:
            self.note(one.rows, tuple(one.dims), one.ms)
        self.notes = 0

    def note(self, rows: int, dims: Dims, ms: float) -> None:
        """One more forward."""
        recent = self._times.get((rows, dims))
        if recent is None:
            recent = self._times[rows, dims] = Recent()
        recent.note(ms)
        self.notes += 1

    def learned(self) -> Iterator[Learned]:
        """All that is known, for the next life."""
        for (rows, dims), recent in self._times.items():
            yield Learned(rows, dims, recent.median_ms, recent.p99_ms)

    def typical_ms(self, rows: int, dims: Dims) -> float | None:
        """What a forward of this size takes: the median where the size was seen, else on the line through its neighbours of
        the same dims. None when fewer than two of those are known."""
        own = self._times.get((rows, dims))
        if own is not None:
            return own.median_ms
        seen = sorted(size[0] for size in self._times if size[1] == dims)
        if len(seen) < 2:
            return None
        at = min(max(1, bisect_left(seen, rows)), len(seen) - 1)
        low, high = seen[at - 1], seen[at]
        low_ms, high_ms = self._times[low, dims].median_ms, self._times[high, dims].median_ms
        return max(0.0, low_ms + (high_ms - low_ms) * (rows - low) / (high - low))

    def p99_ms(self, rows: int, dims: Dims) -> float | None:
        """None while no size is known; of fewer than a hundred forwards it is the slowest."""
        return max((recent.p99_ms for recent in self._standing_for(rows, dims)), default=None)

    def hang_limit_s(self, rows: int, dims: Dims) -> float:
        """How long a forward of this size may be silent."""
        return max(self.floor_s, self._factor * (self.p99_ms(rows, dims) or 0.0) / 1e3)

    def _standing_for(self, rows: int, dims: Dims) -> list[Recent]:
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


class Recent:
    """The last forwards of one size, kept in order of arrival and in order of time: noting costs a move of at most KEPT numbers,
    asking costs nothing."""

    __slots__ = ("_arrived", "_ordered")

    def __init__(self) -> None:
        self._arrived: deque[float] = deque()
        self._ordered: list[float] = []

    def note(self, ms: float) -> None:
        """One more; the oldest goes."""
        self._arrived.append(ms)
        insort(self._ordered, ms)
        if len(self._arrived) > KEPT:
            del self._ordered[bisect_left(self._ordered, self._arrived.popleft())]

    @property
    def median_ms(self) -> float:
        """Of an even number the mean of the two in the middle."""
        half = len(self._ordered) // 2
        return self._ordered[half] if len(self._ordered) % 2 else (self._ordered[half - 1] + self._ordered[half]) / 2

    @property
    def p99_ms(self) -> float:
        """Of fewer than a hundred the slowest."""
        return self._ordered[ceil(0.99 * len(self._ordered)) - 1]


def _cells(size: Size) -> int:
    return size[0] * prod(size[1])
