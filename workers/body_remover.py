"""A thread of the slot that removes bodies outside Redis once their jobs have ended, those too that no job ever had.

Deleting may be slow, so it is neither the loop's affair nor the beat's; it has its own connection. Whoever dies in between has
it done again by the next slot: a name leaves Redis' notes only when the body is gone. Bodies in Redis need none of this.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from broker import bodies_sweep
from broker.bodies import is_name
from broker.bodies_store import BodyStore
from broker.connection import LOST, Command, Link
from broker.errors import StoreError

TICK_S = 1.0
SOON_S = 0.05  # between rounds while bodies become free: one prompt round keeps their room small, and its memory warm
SWEEP_EVERY_S = 60.0
KEPT_S = 5.0  # so long at most the store keeps what was removed, for new bodies
MOST_FAILURES = 3  # of one tick: more say that the store is away

log = structlog.get_logger()


class BodyRemover(threading.Thread):
    """Runs until `stop`. Losing Redis or the store is told and waited out: nothing is lost but room."""

    def __init__(
        self, *, model: str, store: BodyStore, link: Link, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(name="body_remover", daemon=True)
        self._model = model
        self._store = store
        self._link = link
        self._clock = clock
        self._over, self._soon = threading.Event(), threading.Event()
        self._next_sweep = 0.0
        self._tidy_at = 0.0  # at first what a life kept that was killed
        self._is_failing = False  # and it was told
        self._is_away = False
        self._is_told = False

    def run(self) -> None:
        while not self._wait():
            try:
                if self._link.fileno() < 0:
                    self._link.connect()
                self.tick(self._clock())
                self._is_failing = self._is_away = False
            except LOST:
                self._link.close()
                self._store.tidy()  # nobody submits now
                self._is_away = True
            except Exception as error:  # noqa: BLE001 - the thread's edge: bodies left lying must not cost the slot its work
                if not self._is_failing:
                    log.warning("bodies not removed", model=self._model, error=str(error), retry_in_s=TICK_S)
                self._is_failing = self._is_away = True
                if not isinstance(error, StoreError):
                    self._link.close()
        self._link.close()
        self._store.tidy()

    def hasten(self) -> None:
        """A job with a body has ended."""
        self._soon.set()

    def stop(self) -> None:
        """Asks for the end, and waits for it a moment: a store that hangs must not hold up the slot's end."""
        self._over.set()
        self._soon.set()
        self.join(2)

    def _wait(self) -> bool:
        """Until a job ended, TICK_S at most, and so long in any case when the last round failed; whether to end."""
        (self._over if self._is_away else self._soon).wait(TICK_S)
        self._soon.clear()
        return self._over.wait(SOON_S)  # those of the jobs that end meanwhile go with it

    def tick(self, now: float) -> None:
        """Removes what is due; now and then looks for what nobody queued or ended. Raises one of LOST, StoreError."""
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_EVERY_S
            if not self._is_told:  # refused at maxmemory: next time
                (told,) = self._link.run_all([bodies_sweep.seen(self._model, self._store.token, self._store.location)])
                self._is_told = not isinstance(told, Exception)
            freed = self._call(bodies_sweep.orphans(self._model, self._store.token))
            if freed > 0:
                log.warning(
                    "bodies swept", model=self._model, count=freed, next="they had no job any more; room is free"
                )
        if now >= self._tidy_at:
            self._tidy_at = float("inf")
            self._store.tidy()
        while not self._over.is_set():
            now_ms = self._now_ms()
            due = self._call(bodies_sweep.due(self._model, self._store.token, now_ms))
            if not due:
                return
            self._tidy_at = min(self._tidy_at, now + KEPT_S)
            self._remove(due, now_ms)

    def _remove(self, due: list[bytes], now_ms: int) -> None:
        """Removes bodies one by one, so that one that cannot be removed now holds up no other; then raises its StoreError.

        Whoever submits may write these names: one that is no job's is never looked for, and its note goes.
        """
        gone: list[bytes] = []
        stuck: list[bytes] = []
        errors: list[StoreError] = []
        for raw in due:
            if is_name(name := raw.decode(errors="replace")):
                try:
                    self._store.recycle([name])
                except StoreError as error:
                    stuck.append(raw)
                    errors.append(error)
                    if len(errors) == MOST_FAILURES:
                        break
                    continue
            gone.append(raw)
        if gone:
            self._call(bodies_sweep.removed(self._model, self._store.token, gone))
        if stuck:
            self._call(bodies_sweep.postponed(self._model, self._store.token, stuck, now_ms))
            raise errors[0]

    def _now_ms(self) -> int:
        seconds, micros = self._link.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    def _call(self, command: Command) -> Any:
        (reply,) = self._link.run_all([command])
        if isinstance(reply, Exception):
            raise reply
        return reply
