"""How large a batch may be and had better be, by what is known of T and of the device's memory. Pure: rows and ms in, rows and ms out.

Memory bounds every batch (`cap`). The low lane's batches are bounded in time as well, since a job of a higher lane that comes
while one runs must wait for its end. Fewer rows than there are run where a smaller size does more rows a second: past the
model's knee, and where most of the larger size would be padding. Rows of a lower lane that join a higher one's batch may use
its padding, and what makes no difference to it; they may not make it late.

Where T is not known nothing is bounded by it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from broker.messages import LOW
from broker.timetable import Dims
from workers import chain
from workers.timetable import Timetable

# A low batch may always take so many times the smallest one: below that there is only its fixed cost to lose.
PASSES = 2
FREE_MS, FREE_SHARE = 1.0, 0.1  # what company may cost those it joins: that much, or that share, whichever is more
BATCH_MS = 0.2  # what a batch costs beside its forward
GAIN = 0.1  # a smaller size must do so many more rows a second: T is never exact
REFRESH = 64  # forwards after which T is looked at again


class BatchLimits:
    """Of one model on one device."""

    def __init__(
        self,
        timetable: Timetable,
        row_buckets: tuple[int, ...],
        *,
        low_batch_ms: float,
        cap: Callable[[Dims], int] | None = None,
    ) -> None:
        """`low_batch_ms` 0 sets no bound; `cap` gives the rows for which there is memory now."""
        self._timetable = timetable
        self._buckets = row_buckets
        self._low_batch_ms = low_batch_ms
        self._cap = cap or (lambda dims: row_buckets[-1])
        self._fills: dict[tuple[Dims, int], int] = {}
        self._fills_under = -1

    @property
    def edition(self) -> int:
        """Changes when what was told before is to be asked again."""
        return self._timetable.notes // REFRESH

    # --- rows -------------------------------------------------------------------------------------

    def most(self, dims: Dims, lane: int) -> int:
        """Rows that a batch may have whose first job is of `lane`."""
        rows = self._cap(dims)
        if lane < LOW or not self._low_batch_ms:
            return rows
        limit_ms = max(self._low_batch_ms, PASSES * self.least_ms(dims))
        return min(rows, self._largest_within(dims, limit_ms) or self._buckets[0])

    def fill(self, dims: Dims, rows: int) -> int:
        """How many of `rows` rows to run in the next batch."""
        if self._fills_under != self.edition:
            self._fills_under = self.edition
            self._fills.clear()
        known = self._fills.get((dims, rows))
        if known is None:
            known = self._fills[dims, rows] = self._best(dims, rows)
        return known

    def planned(self, dims: Dims, lane: int) -> int:
        """Rows of a batch when more than enough wait."""
        return self.fill(dims, self.most(dims, lane))

    def forwards(self, most: int, dims: Dims, lane: int, rows: int, rows_left: int) -> int:
        """How many batches of `rows` to chain, at most `most`, of a job that has `rows_left`."""
        if most == 1 or rows < self._buckets[-1]:
            return 1
        limit_ms = min(chain.LONGEST_MS, self._low_batch_ms or chain.LONGEST_MS) if lane == LOW else chain.LONGEST_MS
        return chain.forwards(most, rows_left, max_rows=rows, forward_ms=self.typical_ms(dims, rows), limit_ms=limit_ms)

    def company(self, dims: Dims, rows: int) -> int:
        """Rows to which lower lanes may fill up a batch of `rows` rows of a higher one."""
        bucket = self._bucket(rows)
        own_ms = self._timetable.typical_ms(bucket, dims)
        if own_ms is None:
            return self._buckets[-1]
        return max(bucket, self._largest_within(dims, max(own_ms + FREE_MS, own_ms * (1 + FREE_SHARE))))

    # --- milliseconds -----------------------------------------------------------------------------

    def typical_ms(self, dims: Dims, rows: int) -> float:
        """What a batch of `rows` rows takes; 0 while that is not known."""
        return self._timetable.typical_ms(self._bucket(rows), dims) or 0.0

    def least_ms(self, dims: Dims) -> float:
        """What the smallest batch takes; 0 while that is not known."""
        return self.typical_ms(dims, 1)

    def saved_ms(self, dims: Dims, rows: int) -> float:
        """What it saves that one more row joins a batch of `rows` instead of having one of its own."""
        joined = min(rows + 1, self._buckets[-1])
        return self.typical_ms(dims, rows) + self.least_ms(dims) - self.typical_ms(dims, joined)

    def _best(self, dims: Dims, rows: int) -> int:
        own_ms = self._timetable.typical_ms(self._bucket(rows), dims)
        if own_ms is None:
            return rows
        best, pace = rows, (1 + GAIN) * rows / (own_ms + BATCH_MS)
        for bucket in self._buckets[: bisect_left(self._buckets, rows)]:
            ms = self._timetable.typical_ms(bucket, dims)
            if ms is not None and bucket / (ms + BATCH_MS) > pace:
                best, pace = bucket, bucket / (ms + BATCH_MS)
        return best

    def _largest_within(self, dims: Dims, limit_ms: float) -> int:
        """The largest size that takes no longer, and none below it does; 0 when there is none. Unknown ones do not bound."""
        found = 0
        for bucket in self._buckets:
            ms = self._timetable.typical_ms(bucket, dims)
            if ms is not None and ms > limit_ms:
                break
            found = bucket
        return found

    def _bucket(self, rows: int) -> int:
        return self._buckets[min(bisect_left(self._buckets, rows), len(self._buckets) - 1)]
