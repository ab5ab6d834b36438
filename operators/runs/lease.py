"""The lease of one run, as the program that works the run holds it: notes under it, and knows whether it still may write.

A program that stood still for longer than its lease (stopped, swapped out) wakes up believing it is alone; so it asks the clock
before each part, not only Redis now and then. Redis being away is no reason to stop: what is due is noted later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from broker import keys, run_lease
from broker.connection import LOST, Link
from broker.errors import LeaseLost, RedisUnavailable
from broker.runs import RowError

SURE_S = keys.RUN_LEASE_MS / 1000 * 0.6  # after a renewal: Redis' clock and ours need not run alike

log = structlog.get_logger()


class Lease:
    """Notes go through one thread; `wait_sure` is for the thread that writes parts."""

    def __init__(
        self, link: Link, run: str, owner: str, *, keep_ms: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.run = run
        self._link = link
        self._owner = owner
        self._keep_ms = keep_ms
        self._clock = clock
        self._renewed = clock()
        self.is_lost = False
        self._is_away = False

    def note(
        self,
        fields: Mapping[str, str | int | float],
        *,
        failed: Sequence[RowError] = (),
        is_progress: bool = False,
        forgets_errors: bool = False,
    ) -> str | None:
        """Writes, and renews; what the user asks for. None when Redis is away: nothing is known to be written then.

        Raises LeaseLost.
        """  # fmt: skip
        began = self._clock()
        try:
            if self._link.fileno() < 0:
                self._link.connect()
            noted = run_lease.note(
                self._link, self.run, self._owner, fields, failed=failed, is_progress=is_progress,
                forgets_errors=forgets_errors,
            )  # fmt: skip
        except LeaseLost:
            self.is_lost = True
            raise
        except (*LOST, RedisUnavailable) as error:
            self._link.close()
            if not self._is_away:
                log.warning(
                    "redis does not answer", run=self.run, error=str(error), next="the run goes on when it does"
                )
            self._is_away = True
            return None
        self._renewed, self._is_away = began, False
        return noted.asked

    def leave(self, state: str, fields: Mapping[str, str | int | float]) -> str:
        """Gives the run up in this state; the state it is in then, which a user may have asked for. Raises LeaseLost, and one of
        connection.LOST: the lease then ends by itself, and the run goes on from its parts."""
        if self._link.fileno() < 0:
            self._link.connect()
        return run_lease.note(self._link, self.run, self._owner, fields, leave=state, keep_ms=self._keep_ms).state

    @property
    def is_sure(self) -> bool:
        """Whether nobody else can have the lease now."""
        return not self.is_lost and self._clock() - self._renewed < SURE_S

    def wait_sure(self, is_over: threading.Event) -> bool:
        """Until nothing can go wrong with writing; False when that will not be, because the lease is lost or the work is over."""
        while not self.is_sure:
            if self.is_lost or is_over.wait(0.05):
                return False
        return True
