"""Whether a free engine waits for company before it begins a batch that is not full. Pure: Redis' ms in, ms out.

Mostly it does not: what waits is run, and a lone job is run at once. Jobs that come soon after others were answered are the
exception. Their senders wait for results, so they come together, a moment after the engine became free; whoever begins with
the first of them runs the rest a whole forward later, and again the time after. So it is learned how many jobs are submitted
in a short window after each forward. While a window is open, `n` jobs in hand wait to its end if that costs them less than it
saves those still expected: n * left < expected * saved. For independent arrivals this is the rule n * gap < saved.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter

from broker.messages import Job

WINDOW_SHARE = 0.3  # of what a forward more costs: the longest wait
LEAST_SAVED_MS = 1.0  # for less it is not worth looking at Redis again
FORGETS = 0.25  # weight of the last window
_submitted_ms = attrgetter("submitted_ms")


class Waiting:
    """What is known of the senders of one model. `max_wait_ms` bounds every wait; 0 switches it off."""

    def __init__(self, max_wait_ms: float) -> None:
        self.expected = 0.0  # jobs in a window, running mean
        self.is_open = False  # whether jobs are counted at all
        self._max_wait_ms = max_wait_ms
        # Jobs of a window may be claimed only after the next forward, so it counts until the one after that.
        self._now = self._before = _Window(0.0, 0.0)

    def freed(self, now_ms: float, saved_ms: float) -> None:
        """The engine ended a forward; one more would cost `saved_ms`."""
        if self._before.length_ms:
            self.expected += FORGETS * (self._before.came - self.expected)
        length_ms = min(self._max_wait_ms, WINDOW_SHARE * saved_ms) if saved_ms >= LEAST_SAVED_MS else 0.0
        if not length_ms and not self.is_open:
            return  # quick forwards: nothing is counted
        self._before, self._now = self._now, _Window(now_ms, length_ms)
        self.is_open = self._now.length_ms > 0 or self._before.length_ms > 0

    def came(self, jobs: Sequence[Job]) -> None:
        """Jobs of one lane were claimed, the oldest first."""
        for window in (self._now, self._before):
            if window.length_ms:
                window.count(jobs)

    def left_ms(self, now_ms: float, rows: int, saved_ms: float) -> float:
        """How much longer `rows` rows in hand wait; 0: begin."""
        window = self._now
        left_ms = window.began_ms + window.length_ms - now_ms
        missing = self.expected - window.came
        if not 0 < left_ms <= window.length_ms or missing < 0.5 or rows * left_ms >= missing * saved_ms:
            return 0.0
        return left_ms


class _Window:
    """A moment after the end of a forward, and the jobs that were submitted in it."""

    __slots__ = ("began_ms", "came", "length_ms")

    def __init__(self, began_ms: float, length_ms: float) -> None:
        self.began_ms = began_ms
        self.length_ms = length_ms
        self.came = 0

    def count(self, jobs: Sequence[Job]) -> None:
        first = bisect_right(jobs, self.began_ms, key=_submitted_ms)
        self.came += bisect_right(jobs, self.began_ms + self.length_ms, lo=first, key=_submitted_ms) - first
