"""Jobs submitted while things break: a thread that feeds, and what became of each job at the end.

Every serial is submitted once. A submit whose answer was lost for good is looked up by its id when all is over: it counts
as accepted when Redis knows it. Never asked twice: a job that is submitted again is another job.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from broker.errors import (
    JobCancelled,
    JobDead,
    JobExpired,
    JobFailed,
    PenstockError,
    QueueFull,
    RedisUnavailable,
    ResultExpired,
    ResultTimeout,
    SubmitUnknown,
    UnknownModel,
)
from producer import Handle, Producer
from tests.chaos.fake import MODEL, OK, answer

CHUNK = 32
PATIENCE_S = 60.0

_serials = itertools.count(1)
Code = Callable[[int], int]


class Tally(msgspec.Struct):
    """What became of the jobs of one traffic. `lost`: accepted and never answered; `wrong`: answered with another's."""

    submitted: int = 0
    done: int = 0
    failed: int = 0
    dead: int = 0
    expired: int = 0
    cancelled: int = 0
    lost: int = 0
    wrong: int = 0
    refused: int = 0  # submits the pool turned down: nothing of them was queued
    unknown: int = 0  # submits without an answer, of which Redis knows nothing

    @property
    def ended(self) -> int:
        """Jobs that came to a final state."""
        return self.done + self.failed + self.dead + self.expired + self.cancelled

    def __add__(self, other: Tally) -> Tally:
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)
        return Tally(*(one + two for one, two in pairs))


def row(serial: int, code: int) -> np.ndarray[Any, Any]:
    return np.array([serial, code], np.int64)


def new_serials(count: int) -> list[int]:
    return [next(_serials) for _ in range(count)]


class Traffic:
    """`per_s` jobs a second until `count` were submitted, or `stop`. `code` says what the model does with a serial."""

    def __init__(
        self,
        url: str,
        *,
        per_s: float = 400,
        count: int | None = None,
        code: Code = lambda serial: OK,
        chunk: int = CHUNK,
        wait_s: float | None = PATIENCE_S,
        **options: Any,
    ) -> None:
        self.producer = Producer(url, submit_timeout_s=PATIENCE_S)
        self.tally = Tally()
        self.handles: list[tuple[int, Handle]] = []
        self._unsure: list[tuple[list[int], str]] = []
        self._per_s, self._count, self._code, self._chunk, self._wait_s = per_s, count, code, chunk, wait_s
        self._options = options
        self._is_over = threading.Event()
        self._trouble: BaseException | None = None
        self._thread = threading.Thread(target=self._feed, name="traffic", daemon=True)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(2 * PATIENCE_S)
        self.producer.close()

    @property
    def is_feeding(self) -> bool:
        return self._thread.is_alive()

    def finish(self, within_s: float = 60.0, *, stop: bool = True) -> Tally:
        """Ends the feeding (or waits for its count) and says what became of every job."""
        if stop:
            self._is_over.set()
        self._thread.join(within_s + PATIENCE_S)
        assert not self._thread.is_alive(), "the feeding thread hangs"
        if self._trouble is not None:
            raise self._trouble
        tally = self.tally
        deadline = time.monotonic() + within_s
        for serial, handle in self.handles:
            tally.submitted += 1
            _count(tally, serial, handle, max(0.0, deadline - time.monotonic()))
        for serials, first in self._unsure:
            self._look_up(serials, first)
        self.handles, self._unsure = [], []
        return tally

    def _feed(self) -> None:
        due = time.monotonic()
        sent = 0
        try:
            while not self._is_over.is_set() and (self._count is None or sent < self._count):
                size = self._chunk if self._count is None else min(self._chunk, self._count - sent)
                serials = new_serials(size)
                sent += self._submit(serials)
                due = max(due + size / self._per_s, time.monotonic() - 0.05)
                self._is_over.wait(max(0.0, due - time.monotonic()))
        except BaseException as error:  # noqa: BLE001 - a thread's edge: raised where the case sees it
            self._trouble = error

    def _submit(self, serials: list[int]) -> int:
        rows = [row(serial, self._code(serial)) for serial in serials]
        try:
            taken = self.producer.submit_many(MODEL, rows, wait_s=self._wait_s, **self._options)
        except (QueueFull, RedisUnavailable, SubmitUnknown, UnknownModel) as error:
            taken = error.accepted
            rest = serials[len(taken) :]
            if isinstance(error, SubmitUnknown):
                self._unsure.append((rest, error.job_id))
            else:
                self.tally.refused += len(rest)
                self._is_over.wait(0.05)
        self.handles += zip(serials, taken, strict=False)
        return len(serials)

    def _look_up(self, serials: list[int], first: str) -> None:
        """A chunk without an answer is queued whole or not at all; its ids run on from the first."""
        public = first if ":" in first else f"{MODEL}:{first}"
        head, _, number = public.rpartition("-")
        for place, serial in enumerate(serials):
            handle = self.producer.handle(f"{head}-{int(number) + place}")
            if handle.status() == "unknown":
                self.tally.unknown += 1
                continue
            self.tally.submitted += 1
            _count(self.tally, serial, handle, PATIENCE_S)


def _count(tally: Tally, serial: int, handle: Handle, timeout_s: float) -> None:
    try:
        result = handle.result(timeout_s)
    except JobDead:
        tally.dead += 1
    except JobExpired:
        tally.expired += 1
    except JobCancelled:
        tally.cancelled += 1
    except JobFailed:
        tally.failed += 1
    except (ResultTimeout, ResultExpired):
        tally.lost += 1
    except PenstockError:
        tally.lost += 1
    else:
        tally.done += 1
        tally.wrong += int(result["y"].reshape(-1)[0]) != answer(serial)
