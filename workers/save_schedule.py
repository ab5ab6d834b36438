"""When what a slot learned of T is written down for its next life: seldom, and at its end. Pure; takes the time, sends nothing."""

from __future__ import annotations

from broker.timetable import Learned
from workers.timetable import Timetable

FIRST_S, EVERY_S = 2.0, 30.0
FEW = 16  # forwards that are not worth a write


class SaveSchedule:
    """Of one life that began at `now`."""

    def __init__(self, timetable: Timetable, now: float) -> None:
        self._timetable = timetable
        self.due_at = now + FIRST_S
        self._notes = 0

    def due(self, now: float, *, is_over: bool = False) -> list[Learned]:
        """What to write now; nothing before it is time, or when there is little new."""
        if now < self.due_at and not is_over:
            return []
        self.due_at = now + EVERY_S
        if self._timetable.notes - self._notes < FEW:
            return []
        self._notes = self._timetable.notes
        return list(self._timetable.learned())
