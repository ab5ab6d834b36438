"""What is compared: the mechanisms the slot has, each with a switch, and those that were tried and dropped. Pure."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from workers.batch import Coming
from workers.batch_limits import BatchLimits
from workers.batcher import Batcher

Wait = Callable[
    [Coming, BatchLimits, float, float], float
]  # (coming, batch_limits, gap_ms, waited_ms) -> ms to wait on


class Mechanisms(msgspec.Struct, frozen=True):
    """Which are on. The last three are no longer in the slot."""

    reads_late: bool = True  # behind a long forward jobs are read ahead shortly before its end
    looks: bool = True  # before a long batch Redis is asked once more
    expects: bool = True  # company is waited for where it was seen to come (workers/waiting.py)
    fills: bool = True  # fewer rows where a smaller size does more of them a second
    downs: bool = True  # of these, where it does so only because most of the larger one would be padding
    company: bool = True  # lower lanes fill up a higher one's batch only while it costs nothing
    expires: bool = True  # jobs that cannot end in time are given up unrun
    low_batch_ms: float = 20.0
    wait: Wait | None = None  # a fixed timer, or the marginal rule on the mean gap
    shrinks: bool = False  # a batch stays so small that its tightest deadline is met


BEFORE = Mechanisms(False, False, False, False, False, False, False, 0.0)
NOW = Mechanisms()


def fixed(timer_ms: float) -> Wait:
    """Waits for a full batch, so long at most."""
    return lambda coming, batch_limits, gap_ms, waited_ms: timer_ms - waited_ms


def by_mean_gap(coming: Coming, batch_limits: BatchLimits, gap_ms: float, waited_ms: float) -> float:
    """Waits for one more while n * E[gap] is less than what it saves, twice the gap at most."""
    saved_ms = batch_limits.saved_ms(coming.dims, coming.rows)
    return 2 * gap_ms - waited_ms if saved_ms >= 1.0 and coming.rows * gap_ms < saved_ms else 0.0


class Loose(BatchLimits):
    """BatchLimits with some of its rules off."""

    how = NOW

    def fill(self, dims: tuple[int, ...], rows: int) -> int:
        best = super().fill(dims, rows) if self.how.fills else rows
        is_padding = best < rows and super().fill(dims, self._bucket(rows)) == self._bucket(rows)
        return rows if is_padding and not self.how.downs else best

    def company(self, dims: tuple[int, ...], rows: int) -> int:
        return super().company(dims, rows) if self.how.company else self._buckets[-1]


def shrink(batcher: Batcher, batch_limits: Loose, now_ms: float, most: int) -> None:
    """Bounds the next batch by the tightest deadline in hand, unless that is lost."""
    slack_ms = batcher.tightest_ms() - now_ms
    fit = batch_limits._largest_within((), slack_ms) if batcher.rows <= most else 0
    batch_limits._cap = lambda dims: fit or most
