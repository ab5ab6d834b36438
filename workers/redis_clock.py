"""Redis' time as a slot knows it between answers: a monotonic clock and the largest offset heard lately. Pure but for that clock."""

from __future__ import annotations

from collections.abc import Callable

OFFSET_LIVES_S = 10.0


class RedisClock:
    """Hears the time now and then, tells it always."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._offset_ms = -float("inf")  # Redis' time minus our monotonic clock
        self._offset_until = 0.0

    def hear(self, now_ms: int) -> None:
        """Redis said it was `now_ms` a moment ago. Being late makes the offset too small, never too large, so the largest
        of the last seconds is the best one; an older one is given up, since clocks drift and are set."""
        now = self._clock()
        offset_ms = now_ms - now * 1e3
        if offset_ms > self._offset_ms or now > self._offset_until:
            self._offset_ms = offset_ms
            self._offset_until = now + OFFSET_LIVES_S

    def ms(self) -> float:
        """Redis' time now."""
        return self._clock() * 1e3 + self._offset_ms
