"""The threads that read bodies outside Redis: a few, started as they are needed, that no fault of a store or of its plug-in ends.

A store may be slow for hours or hang for good. So the clock of one body starts when a thread begins to read it, and what waits for
a thread is given up only where no thread gets on any more. Not here: what becomes of a job (bodies).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import TypeAlias

from broker.bodies_store import BodyStore
from broker.errors import StoreError
from broker.messages import Job

THREADS = 4
PATIENCE_S = 30.0  # for one body; its job is tried again later

Found: TypeAlias = bytes | StoreError | None  # None: there is no such body


class Readers:
    """Owned by one thread, which orders, takes and asks what is late; `is_wanted` is called from the others."""

    def __init__(
        self,
        store: BodyStore,
        *,
        is_wanted: Callable[[Job], bool],
        wake: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.token = store.token
        self._store = store
        self._is_wanted = is_wanted
        self._wake = wake
        self._clock = clock
        self._ordered: dict[int, tuple[Job, float]] = {}  # by identity: one lease may be claimed twice
        self._orders: SimpleQueue[Job | None] = SimpleQueue()
        self._read: SimpleQueue[tuple[Job, Found]] = SimpleQueue()
        self._under_way: list[tuple[Job, float] | None] = []  # per thread: what it reads, and since when
        self._moved_at = 0.0  # when any of them last took an order or brought a body
        self._is_closed = False
        self._waking = threading.Lock()  # once closed nobody is woken any more, whose doorbell may be gone

    def order(self, job: Job) -> None:
        """Has a job's body read, in its turn."""
        self._ordered[id(job)] = (job, self._clock())
        if len(self._under_way) < THREADS and self._orders.qsize() >= self._under_way.count(None):
            self._under_way.append(None)
            threading.Thread(target=self._serve, args=(len(self._under_way) - 1,), name="bodies", daemon=True).start()
        self._orders.put(job)

    def forget(self, job: Job) -> None:
        """Nobody waits for it any more: what comes is for the caller to drop."""
        self._ordered.pop(id(job), None)

    def take(self) -> Iterator[tuple[Job, Found]]:
        """What has been read."""
        while not self._read.empty():
            yield self._read.get_nowait()

    def late(self) -> list[Job]:
        """Jobs to be given up: being read for too long, or ordered that long ago while no thread got on."""
        if not self._ordered:
            return []
        since = {id(one[0]): one[1] for one in list(self._under_way) if one is not None}
        moved_at, now = self._moved_at, self._clock()
        return [
            job for key, (job, at) in self._ordered.items() if since.get(key, max(at, moved_at)) + PATIENCE_S <= now
        ]

    def close(self) -> None:
        """Ends the threads, without waiting for one that a store holds up."""
        with self._waking:
            self._is_closed = True
        for _ in self._under_way:
            self._orders.put(None)

    def _serve(self, place: int) -> None:
        while (job := self._orders.get()) is not None:
            if not self._is_wanted(job):
                continue
            assert job.body is not None
            self._moved_at = now = self._clock()
            self._under_way[place] = (job, now)
            found: Found
            try:
                found = self._store.read(job.body.name)
            except StoreError as error:
                found = error
            except Exception as error:  # noqa: BLE001 - a plug-in's, or no memory: the thread goes on, the job is tried again
                found = StoreError(f"its body could not be read ({type(error).__name__}: {error})"[:300])
            self._under_way[place] = None
            self._moved_at = self._clock()
            self._read.put((job, found))
            with self._waking:
                if not self._is_closed:
                    self._wake()
