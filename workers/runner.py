"""Keeps the engine busy: hands it batches, collects its answers, notices when it died or hangs.

Knows slabs and the engine, not Redis: jobs come in as batches and go out as outcomes. At most one batch runs and one more is
sent ahead, each in its slab; answers come in order. An engine that waits gets its next batch before the finished one is
encoded, so that encoding overlaps with the forward either way. What failed is for `triage`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import structlog

from broker.ends import Ended, Fault
from broker.messages import LANES, Job
from workers.batch import SOON, Batch, Soon
from workers.blame import Blame
from workers.caps import Caps, Change
from workers.claims import NO_ROOM
from workers.engine_client import SLABS, Engine, EngineDied
from workers.exchange import Measure, Measured, Ran, Run
from workers.failures import POLICIES, Action, Kind, policy_of
from workers.outcomes import Clocked, Outcomes
from workers.stow import Stower
from workers.timetable import Timetable
from workers.triage import Triage
from workers.watchdog import Watchdog

log = structlog.get_logger()


class Runner:
    """One engine and what it works on. `redis_ms` gives Redis' time now, `claimed_ms` when each lease was claimed."""

    def __init__(
        self,
        *,
        engine: Engine, stower: Stower, outcomes: Outcomes, bucket: Callable[[int], int], drop: Callable[[set[bytes]], None],
        redis_ms: Callable[[], float], claimed_ms: Mapping[bytes, float], caps: Caps, timetable: Timetable, blame: Blame | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.ended: list[Ended] = []  # outcomes not settled yet
        self.faults: list[Fault] = []
        self.usage: Measured | None = None  # the last measurement, until someone takes it
        self.death: EngineDied | None = None
        self.has_hung = False
        self.has_failed_device = False  # the engine was given up: a sticky device error, or no memory for anyone
        self.learned: list[Change] = []  # caps to be remembered, until someone takes them
        self.forward_ms = 0.0  # running mean
        self.on_batch: Callable[[Batch, Ran], None] = lambda batch, ran: None
        self.fileno = engine.fileno
        self._engine = engine
        self._stower = stower
        self._outcomes = outcomes
        self._redis_ms = redis_ms
        self._claimed_ms = claimed_ms
        self._caps = caps
        self._timetable = timetable
        self._blame = blame
        self._watchdog = Watchdog(timetable, clock)
        self._sent: deque[Batch] = deque()  # with the engine, in order: the first one runs
        self._finished: tuple[Batch, Ran, float] | None = None  # and when, in Redis' time
        self._triage = Triage(outcomes=outcomes, caps=caps, bucket=bucket, drop=drop, redis_ms=redis_ms)
        self._halves = self._triage.parts  # of failed batches, run before anything else
        self._is_inline = engine.fileno() < 0
        self._is_measuring = False  # or shall, as soon as the engine has answered the rest
        self._seq = 0

    # --- what it is doing ---------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether the engine waits for work."""
        return not self._sent and not self._is_measuring

    @property
    def is_empty(self) -> bool:
        """Whether nothing is under way here at all."""
        return self.is_idle and self._finished is None and not self._halves

    @property
    def rows(self) -> Sequence[int]:
        """Rows handed over and not answered yet, by the lanes that began their batches; of a chain those of one forward."""
        if not (self._sent or self._halves):
            return NO_ROOM
        rows = [0] * len(LANES)
        for batch in (*self._sent, *self._halves):
            rows[batch.lane] += batch.rows // batch.forwards
        return rows

    def jobs(self) -> dict[bytes, Job]:
        """Jobs under way, by lease."""
        return {piece.job.lease: piece.job for batch in (*self._halves, *self._sent) for piece in batch.pieces}

    # --- working ------------------------------------------------------------------------------

    def advance(
        self, pack: Callable[[], Batch | Soon | None], pack_ahead: Callable[[], Batch | None] = lambda: None
    ) -> None:
        """Hands over what there is, and encodes what is finished into `ended` and `faults`.

        `pack` gives the next batch to an engine that waits, `pack_ahead` to one that works: one that gains nothing by waiting. Results
        of the low lane, which nobody is in a hurry for, wait for a batch that comes `SOON`: each moment the engine waits is everybody's.
        """
        if self._finished is None:
            self._dispatch(pack)
        while self._finished is not None:
            batch, ran, ended_ms = self._finished
            self._finished = None
            if ran.error:
                self._split(batch, ran)
            if not self._halves:  # no batch is in parts any more
                self.learned += self._caps.settle()
            is_soon = self._dispatch(pack)  # into the other slab: this one's outputs are still to be read
            if is_soon and batch.is_low and not ran.error:
                self._finished = (batch, ran, ended_ms)
                break
            if not ran.error:
                self._encode(batch, ran, ended_ms)
        if len(self._sent) == 1 and not self._is_measuring and not self._halves and self.death is None:
            ahead = pack_ahead()
            if ahead is not None:
                self._hand_over(ahead)

    def _encode(self, batch: Batch, ran: Ran, ended_ms: float) -> None:
        clocked = Clocked(ended_ms - ran.forward_ms, ended_ms)
        slab = self._engine.slabs[ran.seq % SLABS]
        results = self._outcomes.of(batch, ran, slab, clocked, self._claimed_ms)
        self.ended += results.ended
        self.faults += results.faults
        self.forward_ms += 0.2 * (ran.forward_ms - self.forward_ms)
        self.on_batch(batch, ran)

    def measure(self) -> None:
        """Asks the engine for its memory; the answer comes as `usage`, after those of the batches it has."""
        if not self._is_measuring and self.death is None:
            self._begin()
            self._is_measuring = True
            self._send(Measure())

    def collect(self) -> None:
        """Takes the engine's answer; call it when `fileno` is readable."""
        try:
            answer = self._engine.collect()
        except EngineDied as death:
            self._bury(death)
            return
        self._watchdog.begin()
        if isinstance(answer, Measured):
            self._is_measuring = False
            self.usage = answer
            return
        assert self._sent, "an answer to a batch nobody sent"
        batch = self._sent.popleft()
        if self._blame is not None:
            self._blame.clear(answer.seq)
        if not answer.error:
            self._timetable.note(batch.forward_rows, batch.dims, answer.forward_ms / batch.forwards)
        self._finished = (batch, answer, self._redis_ms())

    def check_hang(self) -> None:
        """Kills an engine that has been silent past its limit; call it each turn in which it gave no answer."""
        batch = self._sent[0] if self._sent else None
        hang_s = self._watchdog.hang_s(batch, is_idle=self.is_idle, stamped_at=self._engine.progress.at_s)
        if hang_s:
            self.has_hung = True
            survives = "" if self._engine.kill() else " and survives SIGKILL: the driver holds it"
            self._bury(EngineDied(f"the engine was silent for {hang_s:.0f} s{survives}"))

    def forget(self, leases: set[bytes]) -> None:
        """Drops finished parts of jobs whose rest will not run here."""
        self._outcomes.forget(leases)

    def _dispatch(self, pack: Callable[[], Batch | Soon | None]) -> bool:
        """Hands over the next batch, where the engine can take one; whether there will be one soon instead."""
        if self._sent or self._is_measuring or self.death is not None:
            return False
        batch = self._halves.pop() if self._halves else pack()
        if isinstance(batch, Batch):
            self._hand_over(batch)
        return batch is SOON

    def _hand_over(self, batch: Batch) -> None:
        self._seq += 1
        index = self._seq % SLABS
        message = self._stower.stow(batch, self._engine.slabs[index], seq=self._seq, index=index)
        if self._blame is not None:
            self._blame.note(self._seq, [piece.job for piece in batch.pieces])
        if not self._sent:
            self._begin()
        self._sent.append(batch)
        self._send(message)

    def _begin(self) -> None:
        if self.is_idle:  # else it began with the answer to what the engine does now
            self._watchdog.begin()

    def _send(self, message: Run | Measure) -> None:
        try:
            self._engine.send(message)
        except EngineDied as death:
            if isinstance(message, Run):  # it never got there, so its jobs are not to blame
                self._halves.append(self._sent.pop())
                if self._blame is not None:
                    self._blame.clear(message.seq)
            self._bury(death)
            return
        if self._is_inline:  # it has answered already
            self.collect()

    # --- what goes wrong ------------------------------------------------------------------------

    def _split(self, batch: Batch, ran: Ran) -> None:
        """A batch failed as a whole: what becomes of it, by the table of failures."""
        action = policy_of(ran.reason).action
        if action in (Action.GIVE_BACK, Action.RETURN):
            self._quit(batch, ran, is_blamed=action is Action.GIVE_BACK)
        else:
            self.faults += self._triage.split(batch, ran, action)

    def _quit(self, batch: Batch, ran: Ran, *, is_blamed: bool) -> None:
        """The device is broken or full: nothing more is asked of this engine, whether it ends by itself or not."""
        self._halves += self._sent  # what was sent ahead never ran
        self._sent.clear()
        (self._sent if is_blamed else self._halves).append(batch)
        if self._blame is not None:
            self._blame.clear()
            if is_blamed:  # for the next life, should Redis not hear of the marks now
                self._blame.note(ran.seq, [piece.job for piece in batch.pieces])
        self.has_failed_device = True
        self._engine.kill()
        is_full = ran.reason == POLICIES[Kind.DEVICE_FULL].reason
        self._bury(EngineDied(f"the device {'is full' if is_full else 'failed'}: {ran.error}"))

    def _bury(self, death: EngineDied) -> None:
        """The engine is gone; a new one needs a new process. `blamed` says which jobs were in it."""
        log.error("engine died", error=str(death), next="its batch is marked, the rest given back, the slot exits")
        self.death = death
        self._is_measuring = False

    def blamed(self) -> list[Job]:
        """Jobs of the batch the engine worked on when it died; the one sent ahead, where it prepares that while the other computes."""
        if not self._sent:
            return []
        at = self._engine.progress.number - (self._seq - len(self._sent) + 1)
        batch = self._sent[at] if 0 <= at < len(self._sent) else self._sent[0]
        return [piece.job for piece in batch.pieces]
