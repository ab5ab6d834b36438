"""How long the engine has been silent, and whether that is a hang. Pure but for its clock: it kills nobody.

Silence is counted from the later of two: when the engine got what it does now, and its last stamp of progress.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from workers.batch import Batch
from workers.timetable import Timetable

SLEPT_S = 15.0  # longer than any call of the loop lasts: the whole process was stopped, or its machine


class Watchdog:
    """One engine under watch. `clock` is the one its stamps are made with."""

    def __init__(self, timetable: Timetable, clock: Callable[[], float] = time.monotonic) -> None:
        self._timetable = timetable
        self._clock = clock
        self._began = 0.0
        self._looked_at = 0.0

    def begin(self) -> None:
        """The engine turns to something new now."""
        self._began = self._clock()

    def hang_s(self, batch: Batch | None, *, is_idle: bool, stamped_at: float) -> float:
        """For how long the engine has hung, 0.0 when it does not; call it each turn. `batch` is the one it runs, None while it measures."""
        now = self._clock()
        if now - self._looked_at > SLEPT_S:  # this process was stopped, the engine perhaps with it: give it time
            self._began = now
        self._looked_at = now
        floor_s = self._timetable.floor_s
        if is_idle or now - self._began <= floor_s:
            return 0.0
        limit_s = self._timetable.hang_limit_s(batch.forward_rows, batch.dims) if batch is not None else floor_s
        silent_s = now - max(self._began, stamped_at)
        return silent_s if silent_s > limit_s else 0.0
