"""Looks at the pool one after the other, each told against one a few seconds before: a rate over one second would jump."""

from __future__ import annotations

from collections import deque

from operators.snapshot import Snapshot
from operators.status import Sight
from operators.top.frame import Frame, make

OVER_MS = 5_000  # slots say how they are once a second


class Looks:
    """Over one connection, made anew when it was lost."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._seen: deque[Snapshot] = deque()

    def __call__(self) -> Frame:
        now = self._sight.look()
        if now.redis is None:  # nothing to compare with
            return make(now)
        while len(self._seen) > 1 and now.at_ms - self._seen[1].at_ms >= OVER_MS:
            self._seen.popleft()
        frame = make(now, self._seen[0] if self._seen else None)
        self._seen.append(now)
        return frame
