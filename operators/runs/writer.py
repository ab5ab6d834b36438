"""The thread that writes a run's parts, in order, and only while the run is ours. What is written is told to who asks."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import pyarrow as pa
import structlog

from operators.runs.data.sink import Sink
from operators.runs.lease import Lease

WAITING = 2  # finished chunks that wait to be written, at most
POLL_S, TICK_S = 0.05, 1.0
HANGS_S = 20.0  # of one part, once the run is to be left; supervisord waits 30
STUCK = 70  # exit code


log = structlog.get_logger()


class Part(msgspec.Struct, frozen=True, eq=False):
    """A chunk with all its answers; `finish` makes its table, for a version. `failed`: its rows that have an error instead, and `failed_before`
    those it had when it was written before."""

    index: int
    first_row: int
    rows: int
    failed: int
    failed_before: int
    finish: Callable[[str], pa.Table]


class Writer(threading.Thread):
    """Writes until `end` or an error. Nothing is written once the lease is not ours for sure."""

    def __init__(self, sink: Sink, lease: Lease, version: str) -> None:
        super().__init__(name="writer", daemon=True)
        self._sink = sink
        self._lease = lease
        self._version = version
        self._waiting: queue.Queue[Part | None] = queue.Queue(WAITING)
        self._over = threading.Event()
        self._error: BaseException | None = None
        self.written: deque[Part] = deque()
        self.is_ended = False

    def give(self, part: Part) -> bool:
        """Hands a part over; False when there is no room for it."""
        return self._put(part)

    def end(self) -> bool:
        """No more parts come, `is_ended` is set once all are written; False when there is no room for that word yet."""
        return self._put(None)

    def stop(self, tick: Callable[[], Any] = lambda: None, *, give_up: Callable[[int], Any] = os._exit) -> None:
        """Drops the parts that wait, and waits for the one under way, with a `tick` each second: after this nothing is written.

        A write that hangs on a dead file system cannot be ended, and might still come through once another has the run: the
        program ends itself then.
        """
        self._over.set()
        give_up_at = time.monotonic() + HANGS_S
        while self.is_alive():
            self.join(TICK_S)
            if time.monotonic() >= give_up_at:
                log.error("a part cannot be written", next="the program ends, supervisord starts it again")
                give_up(STUCK)
                return
            tick()

    def check(self) -> None:
        """Raises what writing raised."""
        if self._error is not None:
            raise self._error

    def run(self) -> None:
        try:
            while not self._over.is_set():
                try:
                    part = self._waiting.get(timeout=POLL_S)
                except queue.Empty:
                    continue
                if part is None:
                    self.is_ended = True
                    return
                table = part.finish(self._version)
                if not self._lease.wait_sure(self._over):
                    return
                self._sink.write(part.index, table, first_row=part.first_row)
                self.written.append(part)
        except BaseException as error:  # noqa: BLE001 - the thread's edge: whoever gives the next part is told
            self._error = error

    def _put(self, part: Part | None) -> bool:
        try:
            self._waiting.put_nowait(part)
        except queue.Full:
            return False
        return True
