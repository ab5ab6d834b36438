"""Whether a slot is in contact with Redis: since when it is not, when to try again, and how silence is noticed.

Sends and reads nothing; what was under way when the contact broke, and what must be told after it, is `leases`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sized

import structlog

from workers.claimer import Claimer
from workers.failures import POLICIES, Kind
from workers.wire import Wire

log = structlog.get_logger()

SILENT_S = 10.0  # twice a link's read timeout: a host that vanished closes no connection, and TCP alone takes minutes
_BACK_OFF = POLICIES[Kind.REDIS_LOSS]
FIRST_PAUSE_S, MOST_PAUSE_S = _BACK_OFF.first_ms / 1e3, _BACK_OFF.most_ms / 1e3


class Contact:
    """The state of one wire. `lost_since` is None while it serves; times are those of `clock`."""

    def __init__(self, *, wire: Wire, claimer: Claimer, held: Sized, clock: Callable[[], float]) -> None:
        self.lost_since: float | None = None
        self._wire = wire
        self._claimer = claimer
        self._held = held
        self._clock = clock
        self._heard_at = clock()
        self._reconnect_at, self._pause_s = 0.0, FIRST_PAUSE_S
        self._has_hung_up = False  # no loss: nothing is told of it unless Redis is away meanwhile

    def heard(self) -> None:
        """Redis answered."""
        self._heard_at = self._clock()

    def watch_silence(self) -> None:
        """An answer that does not come for so long is not coming: Redis' host is gone, or will not say."""
        now = self._clock()
        if not self._wire.under_way:
            self._heard_at = now
        elif now - self._heard_at > SILENT_S:
            self.lose(TimeoutError(f"no answer for {SILENT_S:g} s"))

    def lose(self, error: BaseException) -> None:
        """The connection broke: hold what we have, try again later, never in a tight loop."""
        if self.lost_since is None or self._has_hung_up:
            self._has_hung_up = False
            self.lost_since = self._clock()
            self._pause_s = FIRST_PAUSE_S
            log.warning("redis lost", error=str(error), retry_in_s=self._pause_s, leases=len(self._held))
        self._drop_wire()
        self._reconnect_at = self._clock() + self._pause_s * random.uniform(0.5, 1.5)
        self._pause_s = min(MOST_PAUSE_S, self._pause_s * 2)

    def hang_up(self) -> None:
        """Ends a blocked read whose jobs nobody wants any more: Redis hears nothing else on that connection until it is over.

        Connects again with the next talk; what was read meanwhile is a ghost, and returned as one.
        """
        if self._claimer.is_blocked and self.lost_since is None:
            self.lost_since = self._clock()
            self._has_hung_up = True
            self._drop_wire()
            self._reconnect_at = 0.0

    def until_reconnect_s(self) -> float:
        """Seconds until the next try; infinite while connected."""
        return float("inf") if self.lost_since is None else max(0.0, self._reconnect_at - self._clock())

    def restored(self) -> None:
        """It is connected again, and Redis has been told what it must know."""
        self.heard()
        if not self._has_hung_up:
            log.info("redis is back", after_s=round(self._clock() - (self.lost_since or 0.0), 2))
        self.lost_since, self._has_hung_up = None, False
        self._claimer.claims.note_dry(is_dry=False)

    def _drop_wire(self) -> None:
        self._wire.forget()
        self._wire.link.close()
        self._claimer.forget()
