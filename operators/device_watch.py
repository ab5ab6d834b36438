"""Looks at the host's GPUs every few seconds, in a thread of its own: a driver whose GPU is failing answers after seconds, or never,
and the agent must go on beating.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from operators import devices
from operators.hardware import Hardware

EVERY_S = 5.0
WITHOUT_S = 60.0  # no driver answered; one may be loaded later
STALE_S = 30.0


log = structlog.get_logger()


class DeviceWatch(threading.Thread):
    """Runs for as long as its process."""

    def __init__(
        self, *, ask: Callable[[], Hardware | None] = devices.hardware, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(name="devices", daemon=True)
        self._ask = ask
        self._clock = clock
        self._over = threading.Event()
        self._seen: tuple[float, Hardware | None] = (0.0, None)  # replaced whole: read by another thread

    def latest(self) -> Hardware | None:
        """What was seen last; None without a driver, and when it has not answered for a while."""
        at, hardware = self._seen
        return hardware if self._clock() - at <= STALE_S else None

    def stop(self) -> None:
        """Ends after the question under way."""
        self._over.set()

    def run(self) -> None:
        while not self._over.is_set():
            try:
                hardware = self._ask()
            except Exception:  # the thread's edge: without it no GPU would be told of until the agent starts again
                log.exception("GPUs not seen", retry_in_s=WITHOUT_S)
                hardware = None
            self._seen = (self._clock(), hardware)
            self._over.wait(EVERY_S if hardware is not None else WITHOUT_S)
