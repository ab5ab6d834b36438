"""Keeps the engine busy: hands it batches, collects its answers, halves what failed, notices when it died or hangs.

Knows slabs and the engine, not Redis: jobs come in as batches and go out as outcomes. The next batch is handed over
before the finished one is encoded, so that encoding overlaps with the forward.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

import structlog

from broker.messages import Job
from broker.queue import Ended, Fault
from workers.batcher import Batch
from workers.engine_client import SLABS, Engine, EngineDied
from workers.exchange import Measure, Measured, Ran, Run
from workers.faults import fault_of
from workers.outcomes import Clocked, Outcomes
from workers.stow import Stower

log = structlog.get_logger()

TRANSIENT = "transient_error"
RETRY_FIRST_MS, RETRY_MOST_MS = 1_000, 60_000
MOST_MARKS = 3  # a job under which so many engines or slots died is dead


class Runner:
    """One engine and what it works on. `redis_ms` gives Redis' time now, `claimed_ms` when each entry was claimed."""

    def __init__(
        self,
        *,
        engine: Engine,
        stower: Stower,
        outcomes: Outcomes,
        bucket: Callable[[int], int],
        drop: Callable[[set[bytes]], None],
        redis_ms: Callable[[], float],
        claimed_ms: Mapping[bytes, float],
        hang_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ended: list[Ended] = []  # outcomes not settled yet
        self.faults: list[Fault] = []
        self.usage: Measured | None = None  # the last measurement, until someone takes it
        self.death: EngineDied | None = None
        self.has_hung = False
        self.forward_ms = 0.0  # running mean
        self.on_batch: Callable[[Batch, Ran], None] = lambda batch, ran: None
        self._engine = engine
        self._stower = stower
        self._outcomes = outcomes
        self._bucket = bucket
        self._drop = drop
        self._redis_ms = redis_ms
        self._claimed_ms = claimed_ms
        self._hang_s = hang_s
        self._clock = clock
        self._running: Batch | None = None
        self._finished: tuple[Batch, Ran] | None = None
        self._halves: list[Batch] = []  # parts of a failed batch, run before anything else
        self._is_measuring = False
        self._began = 0.0
        self._seq = 0

    # --- what it is doing ---------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether the engine waits for work."""
        return self._running is None and not self._is_measuring

    @property
    def is_empty(self) -> bool:
        """Whether nothing is under way here at all."""
        return self.is_idle and self._finished is None and not self._halves

    @property
    def rows(self) -> int:
        """Rows handed over and not answered yet."""
        halves = sum(half.rows for half in self._halves)
        return halves + (self._running.rows if self._running is not None else 0)

    def fileno(self) -> int:
        return self._engine.fileno()

    def jobs(self) -> dict[bytes, Job]:
        """Jobs under way, by entry."""
        batches = [*self._halves, *([self._running] if self._running is not None else [])]
        return {piece.job.entry: piece.job for batch in batches for piece in batch.pieces}

    # --- working ------------------------------------------------------------------------------

    def advance(self, pack: Callable[[], Batch | None]) -> None:
        """Hands over what there is, and encodes what is finished into `ended` and `faults`."""
        self._dispatch(pack)
        while self._finished is not None:
            batch, ran = self._finished
            self._finished = None
            if ran.error:
                self._split(batch, ran)
                self._dispatch(pack)
                continue
            self._dispatch(pack)  # into the other slab: this one's outputs are still to be read
            ended_ms = self._redis_ms()
            clocked = Clocked(ended_ms - ran.forward_ms, ended_ms)
            slab = self._engine.slabs[ran.seq % SLABS]
            results = self._outcomes.of(batch, ran, slab, clocked, self._claimed_ms)
            self.ended += results.ended
            self.faults += results.faults
            self.forward_ms += 0.2 * (ran.forward_ms - self.forward_ms)
            self.on_batch(batch, ran)

    def measure(self) -> None:
        """Asks the engine for its memory, if it is idle; the answer comes as `usage`."""
        if self.is_idle and self.death is None:
            self._is_measuring = True
            self._send(Measure())

    def collect(self) -> None:
        """Takes the engine's answer; call it when `fileno` is readable."""
        try:
            answer = self._engine.collect()
        except EngineDied as death:
            self._bury(death)
            return
        if isinstance(answer, Measured):
            self._is_measuring = False
            self.usage = answer
            return
        assert self._running is not None, "an answer to a batch nobody sent"
        self._finished = (self._running, answer)
        self._running = None

    def check_hang(self) -> None:
        """Kills an engine that has been silent past its limit."""
        silent_s = self._clock() - self._began
        if not self.is_idle and silent_s > self._hang_s:
            self.has_hung = True
            survives = "" if self._engine.kill() else " and survives SIGKILL: the driver holds it"
            self._bury(EngineDied(f"the engine was silent for {silent_s:.0f} s{survives}"))

    def forget(self, entries: set[bytes]) -> None:
        """Drops finished parts of jobs whose rest will not run here."""
        self._outcomes.forget(entries)

    def _dispatch(self, pack: Callable[[], Batch | None]) -> None:
        if not self.is_idle or self.death is not None:
            return
        batch = self._halves.pop() if self._halves else pack()
        if batch is None:
            return
        self._running = batch
        self._seq += 1
        index = self._seq % SLABS
        self._send(self._stower.stow(batch, self._engine.slabs[index], seq=self._seq, index=index))

    def _send(self, message: Run | Measure) -> None:
        self._began = self._clock()
        try:
            self._engine.send(message)
        except EngineDied as death:
            if self._running is not None:  # it never got there, so its jobs are not to blame
                self._halves.append(self._running)
                self._running = None
            self._bury(death)
            return
        if self._engine.fileno() < 0:  # an inline engine has answered already
            self.collect()

    # --- what goes wrong ------------------------------------------------------------------------

    def _split(self, batch: Batch, ran: Ran) -> None:
        """A batch failed as a whole: halve it until the jobs at fault stand alone, so that only they fail."""
        pieces = batch.pieces
        if len(pieces) == 1:
            job = pieces[0].job
            self._fail(job, ran)
            return
        middle = len(pieces) // 2
        for half in (pieces[middle:], pieces[:middle]):
            rows = sum(piece.stop - piece.start for piece in half)
            self._halves.append(Batch(half, rows, self._bucket(rows), batch.dims))

    def _fail(self, job: Job, ran: Ran) -> None:
        """One job at fault: all its rows go, those that wait too. A transient fault is tried again, with full jitter."""
        self._outcomes.forget({job.entry})
        self._drop({job.entry})
        self._halves = [half for half in self._halves if all(piece.job.entry != job.entry for piece in half.pieces)]
        if ran.reason == TRANSIENT and job.attempt <= job.retries:
            delay_ms = round(random.uniform(0, min(RETRY_MOST_MS, RETRY_FIRST_MS * 2 ** (job.attempt - 1))))
            log.warning("job postponed", job=job.id, error=ran.error, attempt=job.attempt, retry_in_s=delay_ms / 1e3)
            self.faults.append(Fault.of(job, "retry", reason=ran.reason, delay_ms=delay_ms))
            return
        log.warning("job failed", job=job.id, error=ran.error, next="its outcome says so; the slot goes on")
        self.faults.append(fault_of(job, "failed", reason=ran.reason, text=ran.error, now_ms=self._redis_ms()))

    def _bury(self, death: EngineDied) -> None:
        """The engine is gone; a new one needs a new process. `blamed` says which jobs were in it."""
        log.error("engine died", error=str(death), next="its batch is marked, the rest given back, the slot exits")
        self.death = death
        self._is_measuring = False

    def blamed(self) -> list[Job]:
        """Jobs of the batch in the engine when it died."""
        return [piece.job for piece in self._running.pieces] if self._running is not None else []
