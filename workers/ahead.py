"""Whether the next batch is sent to an engine that still works: what it gains is that the engine never waits for its slot.

What it costs: such a batch is settled for, later jobs cannot join it and higher lanes cannot overtake it. So it must gain
nothing by waiting, and delay a higher lane only where there is none, or not by much. Pure; decides, sends nothing.
"""

from __future__ import annotations

from broker.messages import LANES

QUICK_MS = 2.0  # a batch that no higher lane minds
SLOW_MS = 100.0  # a batch that leaves the slot time enough: the engine's wait for it is nothing beside that
ALONE_S = 10.0  # a higher lane that was silent for so long is not waited for


class Ahead:
    """Remembers when each lane was last heard of."""

    def __init__(self) -> None:
        self._heard_at = [float("-inf")] * len(LANES)

    def note(self, highest: int, lowest: int, now: float) -> None:
        """Jobs came, of lanes `highest` (0 is high) to `lowest`."""
        self._heard_at[highest] = self._heard_at[lowest] = now

    def may_send(self, lane: int, forward_ms: float, *, is_full: bool, now: float) -> bool:
        """Whether to send a batch whose first job is of `lane`; `is_full`: nothing more could join it before its turn."""
        if not is_full or forward_ms > SLOW_MS:
            return False
        return forward_ms <= QUICK_MS or self.is_alone(lane, now)

    def is_alone(self, lane: int, now: float) -> bool:
        """Whether lanes above this one were silent for long."""
        return not lane or now - max(self._heard_at[:lane]) > ALONE_S
