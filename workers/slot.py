"""The slot's loop: claim, pack, run, settle, until something says to go. CUDA-free; the engine is another process.

One turn: hand the engine its next batch, encode the finished one, settle it and claim ahead in one round trip that
overlaps with the forward, then wait for whoever answers first. It blocks on Redis only when there is nothing else to do.

Not here: what fits together (batcher), the engine (runner), Redis (leases), how it goes (leaving), liveness (beat).
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

import structlog

from broker import caps as learned
from broker.bodies_store import BodyStore
from broker.connection import Command
from broker.messages import Job
from broker.queue import Fault, Queue
from broker.settings import SlotSettings
from broker.timetable import Learned
from workers.ahead import Ahead
from workers.allowance import Allowance
from workers.batcher import Batch, Batcher
from workers.blame import Blame
from workers.board import Board
from workers.bodies import LOOK_EVERY_S, Bodies
from workers.caps import Caps, Change
from workers.engine_client import Engine
from workers.exchange import Ran
from workers.exits import Exit
from workers.faults import fault_of
from workers.kept import Kept
from workers.leases import Leases
from workers.leaving import NEVER, Leaving
from workers.outcomes import Outcomes
from workers.pacing import Pacing
from workers.retire import Retirement, Verdict
from workers.runner import Runner
from workers.stow import Stower
from workers.timetable import Timetable
from workers.wire import Wire

log = structlog.get_logger()

POLL_MS = 500.0
LOOK_AGAIN_MS = (
    1.0  # between looks for company; a blocked read would overshoot, Redis rounds its time-outs up to 100 ms
)


class Slot:
    """One incarnation, from ready to its exit. All parts are passed in, connected and loaded."""

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
        timetable: Timetable | None = None,
        blame: Blame | None = None,
        caps: Caps | None = None,
        device: str = "",
        store: BodyStore | None = None,
        remember: Callable[[list[Learned]], Command] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`restore` publishes groups and spec again after Redis forgot them; `hurry` makes the beat tell now.

        `timetable` knows the warm-up and earlier lives; on `blame` stands which jobs the engine has, for the next life. `caps` are what
        others learned on `device`, a name that no other host uses. `store` has the large bodies that stand outside Redis.
        `remember` writes down what the timetable learned.
        """
        self._queue = queue
        self._batcher = batcher
        self._retirement = retirement
        self._board = board
        self._settings = settings
        self._hurry = hurry
        self._device = device
        self._clock = clock
        caps = caps or Caps(batcher.row_buckets)
        timetable = timetable or Timetable(floor_s=settings.hang_floor_s, factor=settings.hang_factor)
        self._leases = Leases(
            queue=queue, wire=wire, board=board, lease_s=settings.lease_s, take=self._take, restore=restore,
            on_settled=on_settled, clock=clock,
        )  # fmt: skip
        self._runner = Runner(
            engine=engine, stower=stower, outcomes=outcomes, bucket=batcher.bucket, drop=batcher.drop, redis_ms=self._leases.redis_ms,
            claimed_ms=self._leases.claimed_ms, caps=caps, blame=blame, clock=clock,
            timetable=timetable,
        )  # fmt: skip
        batcher.allowance = Allowance(
            timetable, batcher.row_buckets, low_batch_ms=settings.low_batch_ms, cap=lambda dims: caps.limit(dims, self._leases.redis_ms()),
        )  # fmt: skip
        self._runner.on_batch = self._count
        self._next_sample = clock() + retirement.limits.sample_every_s
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._bodies = Bodies(
            model=queue.model, store=store, ask=self._leases.ask, losses=lambda: wire.losses, held=board.held, wake=self._wake,
            redis_ms=self._leases.redis_ms, clock=clock,
        )  # fmt: skip
        self._leaving = Leaving(
            queue=queue, leases=self._leases, runner=self._runner, batcher=batcher, bodies=self._bodies, retirement=retirement, board=board,
            settings=settings, hurry=hurry, wake=self._wake, clock=clock,
        )  # fmt: skip
        self._ahead = Ahead()
        self._pacing = Pacing(batcher, max_wait_ms=settings.max_wait_ms, read_ahead_max_ms=settings.read_ahead_max_ms)
        self._kept = Kept(timetable, clock())
        self._remember = remember
        self._poller = select.poll()
        self._polled: set[int] = set()

    def leave(self, exit_code: Exit = Exit.DRAINED, detail: str = "asked to stop", *, within_s: float = NEVER) -> None:
        """Asks the slot to drain, sooner than the settings allow with `within_s`. Safe in signal handlers and other threads."""
        self._leaving.ask(exit_code, detail, within_s=within_s)

    def close(self) -> None:
        """Frees the descriptors of a slot that has run; nobody may ask it to leave any more."""
        self._bodies.close()
        for fd in (self._wake_read, self._wake_write):
            os.close(fd)

    def run(self) -> Verdict:
        """Works until it must go; as far as Redis could be told, nothing is held any more when it returns."""
        self._board.state = "ready"
        self._board.is_ready = self._board.frees_place = True
        self._hurry()
        leaving = self._leaving
        while True:
            now = self._board.progress_at = self._clock()
            if leaving.verdict is not None and not self._leases.is_leaving:
                leaving.begin(leaving.verdict, now)
                self._keep(now, is_over=True)
            if not self._bodies.is_idle:
                self._gather()
            self._runner.advance(self._pack, self._pack_ahead)
            self._watch_usage(now)
            if self._runner.death is not None:
                return leaving.bury()
            if leaving.verdict is not None and leaving.is_over(now):
                return leaving.end(leaving.verdict)
            leaving.consider(now)
            self._talk()
            self._wait()

    # --- jobs ---------------------------------------------------------------------------------

    def _take(self, jobs: list[Job]) -> list[Fault]:
        if [job for job in jobs if job.body is not None]:
            jobs = self._bodies.split(jobs)
        return self._add(jobs) if jobs else []

    def _gather(self) -> None:
        """Takes the jobs whose bodies have come."""
        bodies = self._bodies
        bodies.advance()
        jobs, bodies.ready = bodies.ready, []
        faults, bodies.faults = bodies.faults, []
        self._runner.faults += faults + (self._add(jobs) if jobs else [])

    def _add(self, jobs: list[Job]) -> list[Fault]:
        self._runner.took(jobs)
        self._pacing.took(jobs)
        self._ahead.note(jobs[0].lane, jobs[-1].lane, self._clock())
        return [
            fault_of(misfit.job, "failed", reason="invalid_input", text=misfit.text, now_ms=self._leases.redis_ms())
            for misfit in self._batcher.add(jobs)
        ]

    def _pack(self) -> Batch | None:
        """The next batch; None when leaving, and while more jobs are on their way that are worth waiting for."""
        leases, pacing = self._leases, self._pacing
        now_ms = leases.redis_ms()
        pacing.freed(now_ms)
        if self._leaving.verdict is not None:
            return None
        self._expire(now_ms)
        if leases.lost_since is None and (
            (leases.claimer.is_topping_up and self._batcher.rows < self._batcher.max_rows)
            or pacing.is_held(now_ms, is_asking=leases.claimer.is_claiming)
        ):
            return None
        return self._next()

    def _pack_ahead(self) -> Batch | None:
        """The batch after the one that runs, once waiting for its turn gains it nothing."""
        coming = self._batcher.coming()
        if coming is None or self._leaving.verdict is not None:
            return None
        is_full, now = self._room_rows() <= 0, self._clock()
        if not self._ahead.may_send(coming.lane, self._runner.forward_ms, is_full=is_full, now=now):
            return None
        return self._next()

    def _expire(self, now_ms: float) -> None:
        """Gives up what cannot be ready in time."""
        for job in self._batcher.hopeless(now_ms):
            text = f"{max(0, job.deadline_ms - now_ms):.0f} ms were left, too little for a forward with what else waits"
            self._runner.faults.append(fault_of(job, "expired", reason="deadline", text=text, now_ms=now_ms))

    def _next(self) -> Batch | None:
        batch = self._batcher.pack()
        if batch is not None:
            self._pacing.began(batch, self._clock())
        return batch

    def _room_rows(self) -> int:
        """Rows that may still be claimed."""
        return self._pacing.room_rows(self._runner.rows + self._bodies.rows, self._runner.forward_ms)

    def _count(self, batch: Batch, ran: Ran) -> None:
        board = self._board
        board.batches += 1
        board.rows += batch.rows
        board.padded_rows += batch.bucket
        board.totals.append(self._leases.redis_ms() - batch.pieces[0].job.submitted_ms)

    # --- turns --------------------------------------------------------------------------------

    def _talk(self) -> None:
        runner = self._runner
        pacing, claimer, now = self._pacing, self._leases.claimer, self._clock()
        # Never a blocked read beside jobs in hand: one that begins as their wait ends would keep them, and their settle, for a second.
        is_waiting = self._batcher.rows or pacing.patience_ms(self._leases.redis_ms()) > 0
        block_ms = 0 if is_waiting else self._settings.block_ms
        is_busy = not runner.is_idle
        may_ask = not is_busy or pacing.may_ask(now, has_backlog=claimer.claims.has_backlog)
        look, was_claiming = pacing.look, claimer.is_claiming
        if self._bodies.is_fetching and not is_busy:  # no blocked read: nothing could be sent behind it
            is_busy, block_ms = not self._bodies.may_look(), 0
        is_taken = self._leases.talk(
            runner.ended, runner.faults, room_rows=self._room_rows() if may_ask else 0, is_busy=is_busy, block_ms=block_ms,
            batch_rows=pacing.batch_rows(), low_room_rows=pacing.low_room_rows(runner.rows), is_due=pacing.must_ask(now), look=look,
        )  # fmt: skip
        if look is not None:
            pacing.looked()
        if claimer.is_claiming and not was_claiming:
            pacing.read()
        if is_taken:
            runner.ended, runner.faults = [], []
        if runner.learned:
            self._share(runner.learned)
            runner.learned = []

    def _share(self, changes: list[Change]) -> None:
        """Tells the other slots on this device how many rows fit."""
        for change in changes:
            log.warning("batch cap learned", device=self._device, dims=change.dims, cap=change.cap and change.cap.rows)
        command = learned.save(self._queue.model, self._device, {change.dims: change.cap for change in changes})
        self._leases.tell(command)

    def _keep(self, now: float, *, is_over: bool = False) -> None:
        """Writes down what forwards take, when that is due."""
        if self._remember is not None and not self._leases.claimer.is_blocked:
            sizes = self._kept.due(now, is_over=is_over)
            if sizes:
                self._leases.tell(self._remember(sizes))

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"!")
        except BlockingIOError:
            pass  # full of wakes that were not read yet

    def _wait(self) -> None:
        """Sleeps until Redis, the engine or a signal has something; at most POLL_MS."""
        leases, runner = self._leases, self._runner
        wait_ms = min(POLL_MS, leases.until_reconnect_s() * 1e3 + 1)
        if runner.death is not None:
            return
        if self._bodies.is_fetching:
            wait_ms = min(wait_ms, LOOK_EVERY_S * 1e3)
        elif not len(leases.wire) and runner.is_idle and leases.lost_since is None:
            wait_ms = min(self._pacing.patience_ms(leases.redis_ms()), LOOK_AGAIN_MS)
            if wait_ms <= 0:
                return  # this turn made new work possible
        else:
            wait_ms = min(wait_ms, self._pacing.due_ms(self._clock()))
        watched = {self._wake_read, runner.fileno(), leases.wire.link.fileno() if len(leases.wire) else -1} - {-1}
        for fd in self._polled - watched:
            self._poller.unregister(fd)
        for fd in watched - self._polled:
            self._poller.register(fd, select.POLLIN)
        self._polled = watched
        ready = {fd for fd, _ in self._poller.poll(wait_ms)}
        if self._wake_read in ready:
            os.read(self._wake_read, 64)
        if runner.fileno() in ready:
            runner.collect()
        runner.check_hang()
        if leases.wire.link.fileno() in ready:
            leases.hear()

    def _watch_usage(self, now: float) -> None:
        self._keep(now)
        if now >= self._next_sample:
            self._next_sample = now + self._retirement.limits.sample_every_s
            self._runner.measure()
        usage = self._runner.usage
        if usage is not None:
            self._runner.usage = None
            self._board.host_bytes, self._board.device_bytes = usage.host_bytes, usage.device_bytes
            self._retirement.sample(usage)
