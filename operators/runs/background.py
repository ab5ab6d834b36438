"""Long calls beside the loop: a file system that hangs must not keep a run from being seen, renewed and stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import structlog

T = TypeVar("T")
TICK_S, TIDY_S = 1.0, 5.0

log = structlog.get_logger()


class _Call(threading.Thread, Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__(name="background", daemon=True)
        self._work = work
        self.value: T
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self._work()
        except BaseException as error:  # noqa: BLE001 - the thread's edge: `in_background` raises it
            self.error = error


def in_background(work: Callable[[], T], tick: Callable[[], Any]) -> T:
    """What `work` gives, while `tick` is called every second. What either raises is raised; a call that hangs is left behind then."""
    call = _Call(work)
    call.start()
    while True:
        call.join(TICK_S)
        if not call.is_alive():
            break
        tick()
    if call.error is not None:
        raise call.error
    return call.value


def tidied(work: Callable[[], Any]) -> None:
    """Calls what tidies up behind a turn, however that ended: raises nothing, and a call that hangs is left behind."""
    call = _Call(work)
    call.start()
    call.join(TIDY_S)
    if call.is_alive() or call.error is not None:
        why = "its file system does not answer" if call.error is None else str(call.error)[:300]
        log.warning("not tidied up", error=why, next="what is left goes with the parts")
