"""The slot's loop: claim, pack, run, settle, until something says to go. CUDA-free; the engine is another process.

One turn: hand the engine its next batch, encode the finished one, settle it and claim ahead in one round trip that
overlaps with the forward, then wait for whoever answers first. It blocks on Redis only when there is nothing else to do.

Not here: what fits together (batcher), the engine (runner), Redis (leases), how it goes (leaving), liveness (beat).
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable

import structlog

from broker import caps as learned
from broker.messages import Job
from broker.queue import Fault, Queue
from broker.settings import SlotSettings
from workers.ahead import Ahead
from workers.batcher import Batch, Batcher
from workers.blame import Blame
from workers.board import Board
from workers.caps import Caps, Change
from workers.engine_client import SLABS, Engine
from workers.exchange import Ran, Timed
from workers.exits import Exit
from workers.faults import fault_of
from workers.leases import Leases
from workers.leaving import NEVER, Leaving
from workers.outcomes import Outcomes
from workers.retire import Retirement, Verdict
from workers.runner import Runner
from workers.stow import Stower
from workers.timetable import Timetable
from workers.wire import Wire

log = structlog.get_logger()

POLL_MS = 500.0
LOOK_AGAIN_MS = (
    2.0  # between looks for company; a blocked read would overshoot, Redis rounds its time-outs up to 100 ms
)
SPIN_ROWS, SPIN_BELOW_MS, SPIN_S = 4, 0.15, 150e-6  # one in flight gains a tenth by it; a flood would lose


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
        times: Iterable[Timed] = (),
        blame: Blame | None = None,
        caps: Caps | None = None,
        device: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`restore` publishes groups and spec again after Redis forgot them; `hurry` makes the beat tell now.

        `times` are those of the warm-up; on `blame` stands which jobs the engine has, for the next life. `caps` are what
        others learned on `device`, a name that no other host uses.
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
        self._leases = Leases(
            queue=queue, wire=wire, board=board, lease_s=settings.lease_s, take=self._take, restore=restore,
            on_settled=on_settled, clock=clock,
        )  # fmt: skip
        self._runner = Runner(
            engine=engine, stower=stower, outcomes=outcomes, bucket=batcher.bucket, drop=batcher.drop, redis_ms=self._leases.redis_ms,
            claimed_ms=self._leases.claimed_ms, caps=caps, blame=blame, clock=clock,
            timetable=Timetable(times, floor_s=settings.hang_floor_s, factor=settings.hang_factor),
        )  # fmt: skip
        batcher.cap = lambda dims: caps.limit(dims, self._leases.redis_ms())
        self._runner.on_batch = self._count
        self._next_sample = clock() + retirement.limits.sample_every_s
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._leaving = Leaving(
            queue=queue, leases=self._leases, runner=self._runner, batcher=batcher, retirement=retirement, board=board,
            settings=settings, hurry=hurry, wake=self._wake, clock=clock,
        )  # fmt: skip
        self._ahead = Ahead()
        self._poller = select.poll()
        self._polled: set[int] = set()

    def leave(self, exit_code: Exit = Exit.DRAINED, detail: str = "asked to stop", *, within_s: float = NEVER) -> None:
        """Asks the slot to drain, sooner than the settings allow with `within_s`. Safe in signal handlers and other threads."""
        self._leaving.ask(exit_code, detail, within_s=within_s)

    def close(self) -> None:
        """Frees the descriptors of a slot that has run; nobody may ask it to leave any more."""
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
        self._runner.took(jobs)
        self._ahead.note(jobs[0].lane, jobs[-1].lane, self._clock())
        return [
            fault_of(misfit.job, "failed", reason="invalid_input", text=misfit.text, now_ms=self._leases.redis_ms())
            for misfit in self._batcher.add(jobs)
        ]

    def _pack(self) -> Batch | None:
        """The next batch; None when leaving, and while more jobs are on their way that are worth waiting for."""
        if (
            self._leases.claimer.is_topping_up
            and self._batcher.rows < self._batcher.max_rows
            and self._leases.lost_since is None
        ):
            return None
        if self._leaving.verdict is not None or self._patience_ms() > 0:
            return None
        return self._batcher.pack()

    def _pack_ahead(self) -> Batch | None:
        """The batch after the one that runs, once waiting for its turn gains it nothing."""
        lane = self._batcher.first_lane()
        if lane is None or self._leaving.verdict is not None:
            return None
        is_full, now = self._room_rows() <= 0, self._clock()
        if not self._ahead.may_send(lane, self._runner.forward_ms, is_full=is_full, now=now):
            return None
        return self._batcher.pack()

    def _patience_ms(self) -> float:
        """How much longer jobs in hand may wait for company, measured from submit."""
        wait_ms = self._settings.max_wait_ms
        if not wait_ms or not 0 < self._batcher.rows < self._batcher.max_rows:
            return 0.0
        return wait_ms - (self._leases.redis_ms() - self._batcher.oldest_ms())

    def _room_rows(self) -> int:
        """Rows to claim: a slot holds at most two batches, one that runs and one ahead, and one if batches are slow."""
        batches = 1 if self._runner.forward_ms > self._settings.read_ahead_max_ms else SLABS
        return batches * self._batcher.max_rows - self._batcher.rows - self._runner.rows

    def _count(self, batch: Batch, ran: Ran) -> None:
        board = self._board
        board.batches += 1
        board.rows += batch.rows
        board.padded_rows += batch.bucket
        board.totals.append(self._leases.redis_ms() - batch.pieces[0].job.submitted_ms)

    # --- turns --------------------------------------------------------------------------------

    def _talk(self) -> None:
        runner = self._runner
        block_ms = 0 if self._patience_ms() > 0 else self._settings.block_ms
        is_taken = self._leases.talk(
            runner.ended, runner.faults, room_rows=self._room_rows(), is_busy=not runner.is_idle, block_ms=block_ms
        )
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

    def _wake(self) -> None:
        os.write(self._wake_write, b"!")

    def _wait(self) -> None:
        """Sleeps until Redis, the engine or a signal has something; at most POLL_MS."""
        leases, runner = self._leases, self._runner
        wait_ms = min(POLL_MS, leases.until_reconnect_s() * 1e3 + 1)
        if runner.death is not None:
            return
        if not len(leases.wire) and runner.is_idle and leases.lost_since is None:
            wait_ms = min(self._patience_ms(), LOOK_AGAIN_MS)
            if wait_ms <= 0:
                return  # this turn made new work possible
        watched = {self._wake_read, runner.fileno(), leases.wire.link.fileno() if len(leases.wire) else -1} - {-1}
        for fd in self._polled - watched:
            self._poller.unregister(fd)
        for fd in watched - self._polled:
            self._poller.register(fd, select.POLLIN)
        self._polled = watched
        ready = {fd for fd, _ in self._spin() or self._poller.poll(wait_ms)}
        if self._wake_read in ready:
            os.read(self._wake_read, 64)
        if runner.fileno() in ready:
            runner.collect()
        runner.check_hang()
        if leases.wire.link.fileno() in ready:
            leases.hear()

    def _spin(self) -> list[tuple[int, int]]:
        """Looks again and again for a moment when few rows are with a quick engine: being woken costs more than that."""
        runner = self._runner
        if runner.is_idle or runner.rows > SPIN_ROWS or runner.forward_ms > SPIN_BELOW_MS:
            return []
        until = time.perf_counter() + SPIN_S
        while time.perf_counter() < until:
            ready = self._poller.poll(0)
            if ready:
                return ready
        return []

    def _watch_usage(self, now: float) -> None:
        if now >= self._next_sample:
            self._next_sample = now + self._retirement.limits.sample_every_s
            self._runner.measure()
        usage = self._runner.usage
        if usage is not None:
            self._runner.usage = None
            self._board.host_bytes, self._board.device_bytes = usage.host_bytes, usage.device_bytes
            self._retirement.sample(usage)
