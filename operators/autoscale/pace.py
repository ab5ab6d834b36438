"""How fast jobs come and how many one slot does in a second, measured between two looks. Pure: takes sights, gives rates.

What slots did while there was always more to do is their speed; until that was seen T stands for it (workers/timetable.py), which
knows forwards only and not what else a slot does.
"""

from __future__ import annotations

from collections import deque
from math import exp

from operators.autoscale.words import Sight

ARRIVALS_S = 20.0  # the time constant of the arrivals' average
SPEED_S = 60.0  # and of the slots' speed, in seconds with work left over
ENOUGH_S = 6.0  # of slots at work, before their speed is believed
LONGEST_GAP_S = 60.0  # the agent itself was away


class Pace:
    """The memory of one model's rates. Times are those of the sights."""

    def __init__(self) -> None:
        self._before: Sight | None = None
        self._came = _Average(ARRIVALS_S)
        self._done = _Average(SPEED_S)
        self._peaks: deque[tuple[float, float]] = deque()  # (when, rate), rates descending
        self._came_at_s = float("-inf")

    @property
    def arrival_per_s(self) -> float | None:
        """None before the second look."""
        return self._came.rate

    def slot_per_s(self, sight: Sight) -> float | None:
        """Jobs/s of one slot, as measured, else by T. None: neither is known."""
        return (self._done.rate if self.is_measured else None) or sight.table_per_s or None

    @property
    def is_measured(self) -> bool:
        """Whether slots were seen at work with more to do left over."""
        return self._done.weight >= ENOUGH_S and bool(self._done.rate)

    def peak_per_s(self, since_s: float) -> float:
        """The highest average of arrivals since that moment; older ones are forgotten."""
        while self._peaks and self._peaks[0][0] < since_s:
            self._peaks.popleft()
        return self._peaks[0][1] if self._peaks else 0.0

    def is_silent(self, since_s: float) -> bool:
        """Whether no job came since that moment: an average that fades never says so."""
        return self._came_at_s < since_s

    def note(self, sight: Sight) -> None:
        """One more look."""
        before, self._before = self._before, sight
        if before is None:
            return
        seconds = sight.at_s - before.at_s
        done = sight.ended - before.ended
        # Counters that fell are of a Redis that was emptied; lanes that were paused or resumed are no arrivals.
        if not 0 < seconds <= LONGEST_GAP_S or done < 0 or sight.paused != before.paused:
            return
        # Not by what was submitted: delayed jobs come when they are due.
        came = max(0, sight.jobs - before.jobs + done)
        self._came_at_s = sight.at_s if came else self._came_at_s
        self._came.note(came, seconds)
        rate = self._came.rate or 0.0
        while self._peaks and self._peaks[-1][1] <= rate:
            self._peaks.pop()
        self._peaks.append((sight.at_s, rate))
        if before.serving == sight.serving > 0 and min(before.unclaimed, sight.unclaimed) > 0:
            self._done.note(done, seconds * sight.serving)


class _Average:
    """A rate over the recent past: events over seconds, both forgotten at the same pace."""

    def __init__(self, constant_s: float) -> None:
        self._constant_s = constant_s
        self._events = 0.0
        self.weight = 0.0  # seconds it stands for

    def note(self, events: float, seconds: float) -> None:
        keep = exp(-seconds / self._constant_s)
        self._events = self._events * keep + events
        self.weight = self.weight * keep + seconds

    @property
    def rate(self) -> float | None:
        return self._events / self.weight if self.weight else None
