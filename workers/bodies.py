"""Jobs in hand whose bodies stand apart, until the bodies are here: asks for all of a claim at once, and never blocks the loop.

Bodies in Redis come over the slot's own wire, in the round trip behind the claim; those in a file or behind a URL are read by
threads. Either way the engine goes on meanwhile, and a job is packed only with its data. What cannot be had ends its job alone,
or sends it round again; nothing here ends the slot.

Not here: those threads (readers), what fits together (batcher), the removal of bodies (body_remover).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from functools import partial
from typing import Any

from broker import bodies_sweep
from broker.bodies import REDIS
from broker.bodies_store import BodyStore
from broker.claimed import with_body
from broker.connection import Command, NoPermissionError
from broker.ends import Fault
from broker.errors import StoreError
from broker.messages import LANES, Job
from workers import readers
from workers.failures import POLICIES, Kind
from workers.faults import fault_by
from workers.readers import Found, Readers
from workers.wire import Handler

LOOK_EVERY_S = 0.05
MISSING, DAMAGED = "body_missing", "body_damaged"


class Bodies:
    """The bodies of claimed jobs. Whoever owns it calls `advance` each turn while any is `waiting`."""

    def __init__(
        self,
        *,
        model: str,
        store: BodyStore | None,
        ask: Callable[[Command, Handler], bool],
        losses: Callable[[], int],
        held: Container[bytes],
        wake: Callable[[], None],
        redis_ms: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`store` None: all bodies are in Redis. `ask` sends a command and says whether it could, `losses` counts broken
        connections, `held` are the leases, `wake` ends the owner's wait from any thread."""
        self.ready: list[Job] = []  # with their data, until someone takes them
        self.faults: list[Fault] = []  # of jobs whose bodies cannot be had, until someone takes them
        self.rows = [0] * len(LANES)  # of jobs that wait for theirs, by lane
        self._model = model
        self._ask = ask
        self._losses = losses
        self._held = held
        self._redis_ms = redis_ms
        self._clock = clock
        self.waiting: dict[bytes, Job] = {}  # whose bodies are on their way
        self._unasked: list[Job] = []
        self._look_at = 0.0
        self._asked_under = 0  # losses when the ones under way were asked for
        self._readers = (
            Readers(store, is_wanted=self._is_awaited, wake=wake, clock=clock) if store is not None else None
        )

    @property
    def is_idle(self) -> bool:
        return not (self.waiting or self.ready or self.faults)

    def may_look(self) -> bool:
        """Now and then: whether to look for other jobs meanwhile, so that none waits for a slow store."""
        now = self._clock()
        if now < self._look_at:
            return False
        self._look_at = now + LOOK_EVERY_S
        return True

    def split(self, jobs: list[Job]) -> list[Job]:
        """The jobs that carry their data; the bodies of the others are asked for."""
        whole = [job for job in jobs if job.body is None]
        for job in jobs:
            if job.body is not None:
                self._hold(job)
        self._ask_all()
        return whole

    def advance(self) -> None:
        """Takes what the threads have read, asks again for what a broken connection took along, gives up what lasts too long."""
        if self._readers is not None:
            for job, found in self._readers.take():
                self._came(job, found)
            for job in self._readers.late():
                text = (
                    f"its body was not read within {readers.PATIENCE_S:g} s; see that the store of large bodies answers"
                )
                self._came(job, StoreError(text))
        if self._asked_under != self._losses():
            self._asked_under = self._losses()
            self._unasked = [job for job in self.waiting.values() if job.body is not None and job.body.token == REDIS]
        self._ask_all()

    def clear(self) -> list[Job]:
        """Takes out all jobs that wait for their bodies, and those that have them and were not taken."""
        jobs = [*self.waiting.values(), *self.ready]
        self.ready = []
        self._unasked = []
        if self._readers is not None:
            for job in self.waiting.values():
                self._readers.forget(job)
        self.waiting.clear()
        self.rows = [0] * len(LANES)
        return jobs

    def close(self) -> None:
        """Ends the threads, without waiting for one that a store holds up."""
        if self._readers is not None:
            self._readers.close()

    # --- asking -------------------------------------------------------------------------------

    def _hold(self, job: Job) -> None:
        assert job.body is not None
        if not self.waiting:
            self._look_at = self._clock() + LOOK_EVERY_S
            self._asked_under = self._losses()
        before = self.waiting.get(job.lease)
        self.rows[job.lane] += job.rows - (before.rows if before is not None else 0)
        self.waiting[job.lease] = job
        if job.body.token == REDIS:
            self._unasked.append(job)
        elif self._readers is None or self._readers.token != job.body.token:
            text = (
                "its body stands in another store than this slot's, in the folder of another machine perhaps; give all machines "
                "the same queue.bodies, and no folder where slots and producers are on several"
            )
            self._came(job, StoreError(text))
        else:
            if before is not None:
                self._readers.forget(before)
            self._readers.order(job)

    def _ask_all(self) -> None:
        while self._unasked:
            job = self._unasked[0]
            if job.body is None or not self._ask(
                bodies_sweep.read(self._model, job.body.name), partial(self._heard, job)
            ):
                return  # no connection now: the next turn asks
            del self._unasked[0]

    # --- what came ----------------------------------------------------------------------------

    def _heard(self, job: Job, reply: Any) -> None:
        if isinstance(reply, NoPermissionError):
            raise reply
        if isinstance(reply, Exception):  # the key is of another type: nothing we wrote
            self._end(job, DAMAGED, f"its body in Redis cannot be read ({reply}); find out who else writes there")
            return
        self._came(job, reply)

    def _came(self, job: Job, found: Found) -> None:
        assert job.body is not None
        if isinstance(found, StoreError):
            self._end(job, POLICIES[Kind.STORE_AWAY].reason, str(found))
        elif found is None:
            self._end(job, MISSING, "its body is gone from the store of large bodies; submit it again")
        elif fault := job.body.fault(found):
            self._end(job, DAMAGED, f"its body {fault}; submit it again")
        elif self._let_go(job):
            self.ready.append(with_body(job, found))

    def _end(self, job: Job, reason: str, text: str) -> None:
        if self._let_go(job):
            self.faults.append(fault_by(job, reason, text, now_ms=self._redis_ms()))

    def _is_awaited(self, job: Job) -> bool:
        return self.waiting.get(job.lease) is job

    def _let_go(self, job: Job) -> bool:
        """Whether this very job was waited for, and is still ours."""
        if not self._is_awaited(job):
            return False  # given back meanwhile, or claimed once more
        del self.waiting[job.lease]
        if self._readers is not None:
            self._readers.forget(job)
        self.rows[job.lane] -= job.rows
        return job.lease in self._held
