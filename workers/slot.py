"""The slot's loop: claim, pack, run, settle, until something says to go. CUDA-free; the engine is another process.

One turn: collect what the engine finished and hand it the next batch at once; then encode the finished one, settle it and
claim ahead, in one round trip that overlaps with the forward. It blocks on Redis only when there is nothing else to do.

Not here: what fits together (batcher), how bytes lie (stow, outcomes), when to retire (retire), liveness (beat).
"""

from __future__ import annotations

import os
import random
import select
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from broker.codec import encode_failure, encode_outcome
from broker.connection import LOST, is_missing_group
from broker.messages import Job, Status
from broker.queue import Claimed, Ended, Fate, Fault, Lease, Queue
from broker.settings import SlotSettings
from workers.batcher import Batch, Batcher
from workers.board import Board
from workers.engine_client import SLABS, Engine, EngineDied
from workers.exchange import Measure, Measured, Ran
from workers.exits import Exit
from workers.outcomes import Clocked, Outcomes
from workers.retire import Retirement, Verdict
from workers.stow import Stower
from workers.wire import Wire

log = structlog.get_logger()

MOST_MARKS = 3  # a job whose engine died so often is dead
CLAIM_BYTES = 2 << 20  # a claim's answer stays well under the 4 MB no script may pass
ASK_AGAIN_S = 0.5  # how often a slot that must retire asks for its place
POLL_MS = 500.0
RECONNECT_MOST_S = 2.0
NEVER = float("inf")


class Slot:
    """One incarnation, from ready to its exit. All parts are passed in, already connected and loaded."""

    def __init__(
        self,
        *,
        queue: Queue,
        wire: Wire,
        engine: Engine,
        batcher: Batcher,
        stower: Stower,
        outcomes: Outcomes,
        retirement: Retirement,
        board: Board,
        settings: SlotSettings,
        restore: Callable[[], None],
        on_settled: Callable[[], None] = lambda: None,
        hurry: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`restore` publishes the spec and the groups again after Redis forgot them; `hurry` makes the beat tell now."""
        self._queue = queue
        self._wire = wire
        self._engine = engine
        self._batcher = batcher
        self._stower = stower
        self._outcomes = outcomes
        self._retirement = retirement
        self._board = board
        self._settings = settings
        self._restore = restore
        self._on_settled = on_settled
        self._hurry = hurry
        self._clock = clock

        self._running: Batch | None = None
        self._finished: tuple[Batch, Ran] | None = None
        self._halves: list[Batch] = []  # parts of a failed batch, run before anything else
        self._seq = 0
        self._began = 0.0  # when the engine got what it works on
        self._is_measuring = False
        self._next_sample = clock() + retirement.limits.sample_every_s

        self._claimed_ms: dict[bytes, float] = {}
        self._offset_ms = 0.0  # Redis' time minus ours
        self._ended: list[Ended] = []
        self._faults: list[Fault] = []
        self._settling: dict[int, tuple[list[Ended], list[Fault]]] = {}  # sent, not answered
        self._sends = 0
        self._is_claiming = self._is_blocked = False
        self._is_dry = False  # the last claim found all there was
        self._asked = 1
        self._job_rows, self._job_bytes, self._forward_ms = 1.0, 1.0, 0.0  # running means
        self._next_ghosts = clock() + settings.lease_s / 2
        self._lost_since: float | None = None
        self._reconnect_at, self._pause_s = NEVER, 0.05

        self._leaving: Verdict | None = None
        self._must_leave = False
        self._next_ask = 0.0
        self._fatal: Verdict | None = None
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poller = select.poll()
        self._polled: set[int] = set()

    # --- from outside -----------------------------------------------------------------------

    def leave(self, exit_code: Exit = Exit.DRAINED, detail: str = "asked to stop") -> None:
        """Asks the slot to drain. Safe in signal handlers and other threads."""
        if not self._must_leave:
            self._leaving = Verdict(exit_code, detail)
            self._must_leave = True
        os.write(self._wake_write, b"!")

    def run(self) -> Verdict:
        """Works until it must go; nothing is held any more when it returns, as far as Redis could be told."""
        self._board.is_ready = True
        self._board.state = "ready"
        self._board.frees_place = True
        self._hurry()
        leave_by = NEVER
        while True:
            now = self._clock()
            self._board.progress_at = now
            if self._must_leave and leave_by == NEVER:
                leave_by = now + self._settings.drain_s
                self._start_draining()
            self._advance()
            if self._fatal is not None:
                return self._end(self._fatal)
            if self._must_leave and (self._is_drained() or now > leave_by):
                assert self._leaving is not None
                return self._end(self._leaving)
            self._consider_retiring(now)
            self._talk(now)
            self._wait(now)

    # --- the engine -------------------------------------------------------------------------

    def _advance(self) -> None:
        """Collects what the engine finished, hands it the next batch, then encodes the finished one."""
        self._dispatch()
        while self._finished is not None:
            batch, ran = self._finished
            self._finished = None
            slab = self._engine.slabs[(ran.seq) % SLABS]
            self._dispatch()
            if ran.error:
                self._split(batch, ran)
                self._dispatch()
            else:
                ended_ms = self._clock() * 1e3 + self._offset_ms
                clocked = Clocked(ended_ms - ran.forward_ms, ended_ms)
                results = self._outcomes.of(batch, ran, slab, clocked, self._claimed_ms)
                self._ended += results.ended
                self._faults += results.faults
                self._count(batch, ran, ended_ms)

    def _dispatch(self) -> None:
        if self._running is not None or self._is_measuring or self._fatal is not None:
            return
        try:
            if self._clock() >= self._next_sample and not self._halves:
                self._next_sample = self._clock() + self._retirement.limits.sample_every_s
                self._is_measuring = True
                self._began = self._clock()
                self._engine.send(Measure())
                self._collect_inline()
                if self._is_measuring:
                    return
            batch = self._halves.pop() if self._halves else self._next_batch()
            if batch is None:
                return
            self._running = batch
            self._began = self._clock()
            self._seq += 1
            index = self._seq % SLABS
            run = self._stower.stow(batch, self._engine.slabs[index], seq=self._seq, index=index)
            self._engine.send(run)
            self._collect_inline()
        except EngineDied as death:
            self._bury(death)

    def _next_batch(self) -> Batch | None:
        wait_ms = self._settings.max_wait_ms
        if wait_ms and 0 < self._batcher.rows < self._batcher.max_rows and not self._must_leave:
            now_ms = self._clock() * 1e3 + self._offset_ms
            if now_ms - self._batcher.oldest_ms() < wait_ms and not self._is_dry:
                return None
        return self._batcher.pack()

    def _collect_inline(self) -> None:
        if self._engine.fileno() < 0:
            self._collect()

    def _collect(self) -> None:
        try:
            answer = self._engine.collect()
        except EngineDied as death:
            self._bury(death)
            return
        if isinstance(answer, Measured):
            self._is_measuring = False
            self._board.host_bytes = answer.host_bytes
            self._board.device_bytes = answer.device_bytes
            self._retirement.sample(answer)
            return
        assert self._running is not None, "an answer to a batch nobody sent"
        self._finished = (self._running, answer)
        self._running = None

    def _count(self, batch: Batch, ran: Ran, ended_ms: float) -> None:
        board = self._board
        board.batches += 1
        board.rows += batch.rows
        board.padded_rows += batch.bucket
        board.totals.append(ended_ms - batch.pieces[0].job.submitted_ms)
        self._forward_ms += 0.2 * (ran.forward_ms - self._forward_ms)

    def _split(self, batch: Batch, ran: Ran) -> None:
        """A batch failed as a whole: halve it until the jobs at fault stand alone, so that only they fail."""
        pieces = batch.pieces
        if len(pieces) > 1:
            middle = len(pieces) // 2
            for half in (pieces[middle:], pieces[:middle]):
                rows = sum(piece.stop - piece.start for piece in half)
                self._halves.append(Batch(half, rows, self._batcher.bucket(rows), batch.dims))
            return
        job = pieces[0].job
        log.warning("job failed", job=job.id, error=ran.error, next="its outcome says so; the slot goes on")
        self._outcomes.forget({job.entry})
        self._batcher.drop({job.entry})
        self._faults.append(self._fault(job, "failed", reason=ran.reason, text=ran.error))

    def _bury(self, death: EngineDied) -> None:
        """The engine is gone: blame the batch it had, give back the rest, and go; a new engine needs a new process."""
        blamed = {piece.job.entry: piece.job for piece in (self._running.pieces if self._running else [])}
        log.error("engine died", error=str(death), blamed=len(blamed), next="the batch is marked and the slot exits")
        for job in blamed.values():
            if job.deliveries >= MOST_MARKS:
                text = f"{death}; {MOST_MARKS} engines died while they ran this job"
                self._faults.append(self._fault(job, "dead", reason="engine_died", text=text))
        self._return([job for job in blamed.values() if job.deliveries < MOST_MARKS], marks=1)
        self._running = None
        self._fatal = self._leaving = Verdict(Exit.ENGINE_DIED, str(death))
        self._must_leave = True

    def _fault(self, job: Job, fate: Fate, *, reason: str, text: str) -> Fault:
        total_ms = max(0.0, self._clock() * 1e3 + self._offset_ms - job.submitted_ms)
        status = Status.DEAD if fate == "dead" else Status.FAILED
        outcome = encode_failure(job, status, reason=reason, text=text, total_ms=total_ms)
        return Fault.of(job, fate, reason=reason, outcome=outcome)

    # --- Redis ------------------------------------------------------------------------------

    def _talk(self, now: float) -> None:
        """Settles what ended and claims what there is room for, in one round trip; blocks when there is nothing else."""
        if self._lost_since is not None:
            self._reconnect(now)
            return
        if self._is_blocked:
            return
        try:
            pairs: list[tuple[Any, Callable[[Any], None]]] = []
            if self._ended or self._faults:
                pairs += self._settle_pairs(self._ended, self._faults)
                self._ended, self._faults = [], []
            if not self._must_leave and not self._is_claiming:
                is_busy = self._running is not None
                room = self._room()
                if pairs or not self._is_dry:
                    if room or not is_busy:
                        pairs.append(self._claim_pair(max(room, 1)))
                elif not is_busy and not len(self._wire):
                    pairs.append(self._block_pair(room))
            if now > self._next_ghosts and not self._is_blocked and not len(self._wire):
                self._next_ghosts = now + self._settings.lease_s / 2
                pairs += self._ghost_pairs()
            if pairs:
                self._wire.send(*pairs)
        except LOST as error:
            self._lose(error)

    def _room(self) -> int:
        """Jobs to ask for: a slot holds at most two batches, one that runs and one ahead."""
        is_slow = self._forward_ms > self._settings.read_ahead_max_ms
        batches = 1 if is_slow else SLABS
        held_rows = self._batcher.rows + (self._running.rows if self._running else 0)
        rows = batches * self._batcher.max_rows - held_rows
        if self._running is not None and self._batcher.rows >= self._batcher.max_rows:
            return 0
        by_bytes = CLAIM_BYTES / self._job_bytes
        return max(0, int(min(rows / self._job_rows, by_bytes if rows > 0 else 0)))

    def _claim_pair(self, room: int) -> tuple[Any, Callable[[Any], None]]:
        self._is_claiming = True
        return self._queue.claim(room), self._claimed

    def _block_pair(self, room: int) -> tuple[Any, Callable[[Any], None]]:
        """COUNT is per stream: a third of the room each keeps three lanes within it."""
        self._is_blocked = True
        self._asked = max(1, room // 3)
        block_ms = self._settings.block_ms
        if self._batcher.rows:  # jobs in hand wait for company, but not longer than max_wait_ms in all
            waited_ms = self._clock() * 1e3 + self._offset_ms - self._batcher.oldest_ms()
            block_ms = max(1, min(block_ms, round(self._settings.max_wait_ms - waited_ms)))
        return self._queue.block(self._asked, block_ms), self._blocked

    def _claimed(self, reply: Any) -> None:
        self._is_claiming = False
        if self._is_refused(reply):
            return
        claimed = self._queue.read_claim(reply)
        self._offset_ms = claimed.now_ms - self._clock() * 1e3
        self._is_dry = not claimed.jobs
        self._take(claimed)

    def _blocked(self, reply: Any) -> None:
        self._is_blocked = False
        if not self._is_refused(reply):
            claimed = self._queue.read_block(reply)
            # Fewer than asked for: what is there was taken, so the next claim can wait for the next settle.
            self._is_dry = len(claimed.jobs) < self._asked
            if claimed.jobs and not self._offset_ms:
                self._offset_ms = claimed.jobs[-1].submitted_ms - self._clock() * 1e3
            self._take(claimed)

    def _take(self, claimed: Claimed) -> None:
        """Takes claimed jobs in hand, or sends back at once what must not run."""
        if not claimed.jobs and not claimed.broken:
            return
        now_ms = self._clock() * 1e3 + self._offset_ms
        jobs = claimed.jobs
        for job in jobs:
            self._board.held[job.entry] = job.lane
            self._claimed_ms[job.entry] = now_ms
        self._faults += [_broken(lease) for lease in claimed.broken]
        worn = [job for job in jobs if job.deliveries > MOST_MARKS]
        late = [job for job in jobs if 0 < job.deadline_ms <= now_ms]
        for job in worn:
            text = f"{job.deliveries - 1} slots or engines died while they held this job"
            self._faults.append(self._fault(job, "dead", reason="crash_marks", text=text))
        if worn or late:
            jobs = [job for job in jobs if job not in worn and job not in late]
        for job in late:
            self._expire(job, now_ms)
        if self._must_leave:
            self._return(jobs, marks=0)
            return
        for misfit in self._batcher.add(jobs):
            self._faults.append(self._fault(misfit.job, "failed", reason="invalid_input", text=misfit.text))
        if jobs:
            rows, size = sum(job.rows for job in jobs) / len(jobs), sum(job.size for job in jobs) / len(jobs)
            self._job_rows += 0.5 * (rows - self._job_rows)
            self._job_bytes += 0.5 * (size - self._job_bytes)

    def _expire(self, job: Job, now_ms: float) -> None:
        total = now_ms - job.submitted_ms
        note = {"reason": "deadline", "error": f"the deadline passed {now_ms - job.deadline_ms:.0f} ms ago, unrun"}
        outcome = encode_outcome(
            job.id, int(Status.EXPIRED), attempt=job.attempt, timings=(total, 0.0, 0.0, total), note=note
        )
        self._faults.append(Fault.of(job, "expired", reason="deadline", outcome=outcome))

    def _settle_pairs(
        self, ended: list[Ended], faults: list[Fault]
    ) -> list[tuple[Any, Callable[[Any], None]]]:
        """The commands that end jobs. What is sent stays known until it is answered, to be sent again after a loss."""
        self._sends += 1
        number = self._sends
        self._settling[number] = (ended, faults)
        pairs: list[tuple[Any, Callable[[Any], None]]] = []
        if ended:
            pairs.append((self._queue.settle(ended), lambda reply: self._settled(reply, number, is_last=not faults)))
        if faults:
            pairs.append((self._queue.fail(faults), lambda reply: self._settled(reply, number, is_last=True)))
        return pairs

    def _settled(self, reply: Any, number: int, *, is_last: bool) -> None:
        if self._is_refused(reply):
            reply = 0
        if not is_last:
            return
        ended, faults = self._settling.pop(number)
        for one in ended:
            self._let_go(one.job.entry)
        for fault in faults:
            self._let_go(fault.entry)
        self._board.jobs += len(ended) + len(faults)
        if ended:
            self._on_settled()

    def _return(self, jobs: list[Job], *, marks: int) -> None:
        """Returns leases; what cannot be told now comes back by the next incarnation's take-over."""
        entries = {job.entry for job in jobs}
        self._outcomes.forget(entries)
        for entry in entries:
            self._let_go(entry)
        if jobs and self._lost_since is None:
            command = self._queue.give_back([(job.lane, job.entry) for job in jobs], marks=marks)
            try:
                self._wire.send((command, self._check))
            except LOST as error:
                self._lose(error)

    def _let_go(self, entry: bytes) -> None:
        self._board.held.pop(entry, None)
        self._claimed_ms.pop(entry, None)

    def _is_refused(self, reply: Any) -> bool:
        """Whether Redis answered with an error; forgotten groups are made again, anything else is the process's end."""
        if not isinstance(reply, Exception):
            return False
        if not is_missing_group(reply):
            raise reply
        log.warning("redis forgot the queue", error=str(reply), next="groups and spec are published again")
        self._restore()
        self._is_dry = False
        return True

    def _check(self, reply: Any) -> None:
        self._is_refused(reply)

    # --- ghosts: leases Redis says are ours, and we never saw -------------------------------------

    def _ghost_pairs(self) -> list[tuple[Any, Callable[[Any], None]]]:
        commands = self._queue.pending()
        return [(command, partial(self._ghosts, lane)) for lane, command in enumerate(commands)]

    def _ghosts(self, lane: int, reply: Any) -> None:
        if self._is_refused(reply) or self._is_claiming:
            return
        ghosts = [(lane, entry) for entry, *_ in reply if entry not in self._board.held]
        if ghosts:
            log.warning("leases we never saw", count=len(ghosts), next="they are given back unharmed")
            self._wire.send((self._queue.give_back(ghosts, marks=0), self._check))

    # --- losing Redis -------------------------------------------------------------------------

    def _lose(self, error: BaseException) -> None:
        if self._lost_since is None:
            self._lost_since = self._clock()
            self._pause_s = 0.05
            log.warning("redis lost", error=str(error), retry_in_s=self._pause_s, leases=len(self._board.held))
        self._wire.forget()
        self._wire.link.close()
        self._is_claiming = self._is_blocked = False
        self._reconnect_at = self._clock() + self._pause_s * random.uniform(0.5, 1.5)
        self._pause_s = min(RECONNECT_MOST_S, self._pause_s * 2)

    def _reconnect(self, now: float) -> None:
        if now < self._reconnect_at:
            return
        try:
            self._wire.link.connect()
            self._queue.ensure_groups(self._wire.link)
            # Settling again what may have been settled is safe: the second time XACK answers 0 and nothing changes.
            pairs = [pair for number in list(self._settling) for pair in self._settle_pairs(*self._settling.pop(number))]
            self._wire.send(*pairs, *self._ghost_pairs())
        except LOST as error:
            self._lose(error)
            return
        log.info("redis is back", after_s=round(now - (self._lost_since or now), 2))
        self._lost_since = None
        self._is_dry = False

    # --- leaving ------------------------------------------------------------------------------

    def _consider_retiring(self, now: float) -> None:
        if self._must_leave:
            return
        verdict = self._retirement.due(self._board.jobs, now)
        if self._retirement.is_too_fast and not self._board.reason:
            self._board.reason = "retiring too fast: a limit is reached before the minimum life; see `penstock doctor`"
            log.warning("retiring too fast", jobs=self._board.jobs, next="the slot goes on until its minimum life")
        if verdict is None:
            return
        if verdict.is_hard:
            self.leave(verdict.exit, verdict.detail)
        elif now >= self._next_ask and self._lost_since is None and not self._is_blocked:
            self._next_ask = now + ASK_AGAIN_S
            ttl_ms = round((self._board.load_s * 3 + self._settings.drain_s + 10) * 1000)
            ask = self._queue.ask_to_retire(self._board.name, place_ttl_ms=ttl_ms)
            try:
                self._wire.send((ask, lambda reply: self._placed(reply, verdict)))
            except LOST as error:
                self._lose(error)

    def _placed(self, reply: Any, verdict: Verdict) -> None:
        if reply == 1:
            self._board.frees_place = False
            self.leave(verdict.exit, verdict.detail)

    def _start_draining(self) -> None:
        assert self._leaving is not None
        self._board.is_ready = False
        self._board.state = "retiring" if self._leaving.exit else "draining"
        self._board.reason = self._leaving.detail
        self._hurry()
        log.info("slot draining", why=self._leaving.exit.reason, detail=self._leaving.detail)
        running = {piece.job.entry for piece in (self._running.pieces if self._running else [])}
        running |= {piece.job.entry for half in self._halves for piece in half.pieces}
        ahead = self._batcher.clear()
        # A job that was split and runs now cannot be finished without its rest: it goes back whole, its part is dropped.
        self._return(ahead, marks=0)
        for batch in filter(None, (self._running,)):
            kept = {job.entry for job in ahead} & {piece.job.entry for piece in batch.pieces}
            self._outcomes.forget(kept)

    def _is_drained(self) -> bool:
        is_working = self._running is not None or self._finished is not None or bool(self._halves) or self._is_measuring
        is_telling = bool(self._ended or self._faults or self._settling or len(self._wire))
        return not is_working and not is_telling and self._lost_since is None

    def _end(self, verdict: Verdict) -> Verdict:
        """Tells Redis what it still must know, for a few seconds at most."""
        self._board.is_ready = False
        deadline = self._clock() + 5.0
        self._return(self._batcher.clear(), marks=0)
        for half in self._halves:
            self._return([piece.job for piece in half.pieces], marks=0)
        try:
            if self._ended or self._faults:
                self._wire.send(*self._settle_pairs(self._ended, self._faults))
                self._ended, self._faults = [], []
            while len(self._wire) and self._clock() < deadline:
                self._wire.pump()
        except LOST as error:
            log.warning("redis lost at the end", error=str(error), next="the next incarnation returns what is left")
        return verdict

    # --- waiting ------------------------------------------------------------------------------

    def _wait(self, now: float) -> None:
        """Sleeps until Redis, the engine or a signal has something; at most POLL_MS."""
        if self._finished is not None or self._fatal is not None or self._ended or self._faults:
            return
        is_engine_idle = self._running is None and not self._is_measuring
        if not len(self._wire) and is_engine_idle and self._lost_since is None and not self._must_leave:
            return  # the last turn made new work possible
        watched = {self._wake_read}
        if len(self._wire) and self._wire.link.fileno() >= 0:
            watched.add(self._wire.link.fileno())
        if self._engine.fileno() >= 0:
            watched.add(self._engine.fileno())
        for fd in self._polled - watched:
            self._poller.unregister(fd)
        for fd in watched - self._polled:
            self._poller.register(fd, select.POLLIN)
        self._polled = watched
        wait_ms = POLL_MS
        if self._lost_since is not None:
            wait_ms = min(wait_ms, max(1.0, (self._reconnect_at - now) * 1e3))
        ready = {fd for fd, _ in self._poller.poll(wait_ms)}
        if self._wake_read in ready:
            os.read(self._wake_read, 64)
        if self._engine.fileno() in ready:
            self._collect()
        elif not is_engine_idle and self._clock() - self._began > self._settings.hang_floor_s:
            self._kill_hung()
        if self._wire.link.fileno() in ready:
            try:
                self._wire.pump()
            except LOST as error:
                self._lose(error)

    def _kill_hung(self) -> None:
        silent_s = self._clock() - self._began
        is_gone = self._engine.kill()
        self._bury(EngineDied(f"the engine was silent for {silent_s:.0f} s" + ("" if is_gone else " and survives SIGKILL")))
        assert self._fatal is not None
        self._fatal = Verdict(Exit.HANG, self._fatal.detail)


def _broken(lease: Lease) -> Fault:
    outcome = encode_outcome(
        lease.id, int(Status.DEAD), attempt=lease.attempt, timings=(0.0, 0.0, 0.0, 0.0),
        note={"reason": "undecodable", "error": lease.error},
    )  # fmt: skip
    return Fault(
        lease.lane, lease.entry, lease.deliveries, lease.id, lease.ttl_s, "dead", 0, "undecodable", outcome
    )


