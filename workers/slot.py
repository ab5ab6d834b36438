"""The slot's loop: claim, pack, run, settle, until something says to go. CUDA-free; the engine is another process.

One turn: hand the engine its next batch, encode the finished one, settle it and claim ahead in one round trip that
overlaps with the forward, then wait for whoever answers first. It blocks on Redis only when there is nothing else to do.

Not here: what fits together (batcher), the engine (runner), Redis (leases), how it goes (leaving), liveness (beat).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from broker.bodies_store import BodyStore
from broker.connection import Command
from broker.ends import Ended
from broker.queue import Queue
from broker.settings_tables import SlotSettings
from broker.timetable import Learned
from workers.ahead import Ahead
from workers.batch import SOON, Batch, Soon
from workers.batch_limits import BatchLimits
from workers.batcher import Batcher
from workers.blame import Blame
from workers.board import Board
from workers.bodies import LOOK_EVERY_S, Bodies
from workers.caps import Caps
from workers.claims import NO_ROOM
from workers.doorbell import Doorbell
from workers.engine_client import Engine
from workers.exits import Exit
from workers.inbox import Inbox
from workers.leases import Leases
from workers.leaving import NEVER, Leaving
from workers.outcomes import Outcomes
from workers.pacing import Pacing
from workers.retire import Retirement, Verdict
from workers.runner import Runner
from workers.stow import Stower
from workers.timetable import Timetable
from workers.upkeep import Upkeep
from workers.wire import Wire

POLL_MS = 500.0
# Between looks for company; a blocked read would overshoot, Redis rounds its time-outs up to 100 ms.
LOOK_AGAIN_MS = 1.0


class Slot:
    """One incarnation, from ready to its exit. All parts are passed in, connected and loaded."""

    def __init__(
        self,
        *,
        queue: Queue, wire: Wire, engine: Engine, batcher: Batcher, stower: Stower, outcomes: Outcomes, retirement: Retirement,
        board: Board, settings: SlotSettings, restore: Callable[[], None], on_settled: Callable[[list[Ended]], None] = lambda ended: None,
        hurry: Callable[[], None] = lambda: None, timetable: Timetable | None = None, blame: Blame | None = None,
        caps: Caps | None = None, device: str = "", store: BodyStore | None = None,
        remember: Callable[[list[Learned]], Command] | None = None, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`restore` publishes groups and spec again after Redis forgot them; `hurry` makes the beat tell now.

        `timetable` knows the warm-up and earlier lives; on `blame` stands which jobs the engine has, for the next life. `caps` are what
        others learned on `device`, a name that no other host uses. `store` has the large bodies that stand outside Redis.
        `remember` writes down what the timetable learned.
        """
        self._batcher = batcher
        self._board = board
        self._settings = settings
        self._hurry = hurry
        self._clock = clock
        self._doorbell = Doorbell()
        board.wake = self._doorbell.ring
        caps = caps or Caps(batcher.row_buckets)
        timetable = timetable or Timetable(floor_s=settings.hang_floor_s, factor=settings.hang_factor)
        self._leases = Leases(
            queue=queue, wire=wire, board=board, lease_s=settings.lease_s, take=lambda jobs: self._inbox.take(jobs), restore=restore,
            on_settled=on_settled, clock=clock,
        )  # fmt: skip
        self._runner = Runner(
            engine=engine, stower=stower, outcomes=outcomes, bucket=batcher.bucket, drop=batcher.drop, redis_ms=self._leases.redis_ms,
            claimed_ms=self._leases.claimed_ms, caps=caps, blame=blame, clock=clock, timetable=timetable,
        )  # fmt: skip
        batcher.batch_limits = BatchLimits(
            timetable, batcher.row_buckets, low_batch_ms=settings.low_batch_ms,
            cap=lambda dims: caps.limit(dims, self._leases.redis_ms()) if caps.are_known else batcher.max_rows,
        )  # fmt: skip
        self._upkeep = Upkeep(
            model=queue.model, device=device, runner=self._runner, leases=self._leases, retirement=retirement, board=board,
            timetable=timetable, remember=remember, now=clock(),
        )  # fmt: skip
        self._bodies = Bodies(
            model=queue.model, store=store, ask=self._leases.ask, losses=lambda: wire.losses, held=board.held, wake=self._doorbell.ring,
            redis_ms=self._leases.redis_ms, clock=clock,
        )  # fmt: skip
        self._leaving = Leaving(
            queue=queue, leases=self._leases, runner=self._runner, batcher=batcher, bodies=self._bodies, retirement=retirement, board=board,
            settings=settings, hurry=hurry, wake=self._doorbell.ring, clock=clock,
        )  # fmt: skip
        self._ahead = Ahead()
        self._pacing = Pacing(batcher, max_wait_ms=settings.max_wait_ms, read_ahead_max_ms=settings.read_ahead_max_ms)
        self._inbox = Inbox(
            batcher=batcher, bodies=self._bodies, outcomes=outcomes, pacing=self._pacing, ahead=self._ahead,
            redis_ms=self._leases.redis_ms, clock=clock,
        )  # fmt: skip

    def leave(self, exit_code: Exit = Exit.DRAINED, detail: str = "asked to stop", *, within_s: float = NEVER) -> None:
        """Asks the slot to drain, sooner than the settings allow with `within_s`. Safe in signal handlers and other threads."""
        self._leaving.ask(exit_code, detail, within_s=within_s)

    def close(self) -> None:
        """Frees the descriptors of a slot that has run; nobody may ask it to leave any more."""
        self._bodies.close()
        self._doorbell.close()

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
                self._upkeep.keep(now, is_over=True)
            if not self._bodies.is_idle:
                self._runner.faults += self._inbox.gather()
            self._runner.advance(self._pack, self._pack_ahead)
            self._upkeep.turn(now)
            if self._runner.death is not None:
                self._runner.advance(self._pack)  # encodes what waited for Redis, should only `turn` have found it dead
                return leaving.bury()
            if leaving.verdict is not None and leaving.is_over(now):
                return leaving.end(leaving.verdict)
            leaving.consider(now)
            self._talk()
            self._wait()

    # --- jobs ---------------------------------------------------------------------------------

    def _pack(self) -> Batch | Soon | None:
        """The next batch; None when leaving, and while more jobs are on their way that are worth waiting for; SOON where it is full, and
        Redis has only to say what comes first."""
        leases, pacing = self._leases, self._pacing
        if pacing.is_running:
            pacing.freed(leases.redis_ms())
        if not self._batcher.rows or self._leaving.verdict is not None:
            return None
        self._runner.faults += self._inbox.expire()
        if leases.lost_since is None:
            if self._is_topping_up():
                return None
            if pacing.is_held(leases.redis_ms(), is_asking=leases.claimer.is_claiming):
                return SOON if pacing.is_soon else None
        return self._next()

    def _is_topping_up(self) -> bool:
        """Whether the rest of a burst is on its way, or is to be asked for now."""
        claimer = self._leases.claimer
        is_wanting = claimer.is_topping_up and self._batcher.rows < self._pacing.batch_rows()
        return is_wanting and (claimer.is_claiming or self._room_rows() > 0)

    def _pack_ahead(self) -> Batch | None:
        """The batch after the one that runs, once waiting for its turn gains it nothing."""
        coming = self._batcher.coming()
        if coming is None or self._leaving.verdict is not None:
            return None
        if self._leases.claimer.claims.has_backlog_above(coming.lane):
            return None  # those that wait there go first
        is_full, now = self._room_rows() <= 0, self._clock()
        if not self._ahead.may_send(coming.lane, self._runner.forward_ms, is_full=is_full, now=now):
            return None
        return self._next()

    def _next(self) -> Batch | None:
        batch = self._batcher.pack()
        if batch is not None:
            self._pacing.began(batch, self._clock())
        return batch

    def _room_rows(self) -> int:
        """Rows that may still be claimed."""
        return self._pacing.room_rows(self._runner.rows, self._runner.forward_ms, self._bodies.rows)

    # --- turns --------------------------------------------------------------------------------

    def _talk(self) -> None:
        runner, pacing, leases, bodies = self._runner, self._pacing, self._leases, self._bodies
        claimer, now, is_busy = leases.claimer, self._clock(), not self._runner.is_idle
        is_due = pacing.is_running and pacing.must_ask(now, is_alone=self._ahead.is_alone(pacing.lane, now))
        if is_busy and leases.is_silent and claimer.claims.is_dry and not (runner.ended or runner.faults or is_due):
            return  # nothing to tell or to ask: the sooner this process sleeps, the sooner the engine runs
        # Never a blocked read beside jobs in hand: one that begins as their wait ends would keep them, and their settle, for a second.
        block_ms = 0 if self._batcher.rows else self._settings.block_ms
        if bodies.waiting and not is_busy:  # no blocked read: nothing could be sent behind it
            is_busy, block_ms = not bodies.may_look(), 0
        look, was_claiming = pacing.look, claimer.is_claiming
        rooms = NO_ROOM
        if not (claimer.is_blocked or was_claiming):
            rooms = pacing.rooms(runner.rows, runner.forward_ms, bodies.rows)
            if is_busy and not pacing.may_ask(now, has_backlog=claimer.claims.has_backlog_for(rooms)):
                rooms = NO_ROOM
        is_taken = leases.talk(
            runner.ended, runner.faults, rooms=rooms, is_busy=is_busy, block_ms=block_ms, batch_rows=pacing.batch_rows(),
            is_due=is_due, look=look,
        )  # fmt: skip
        if look is not None:
            pacing.looked()
        if claimer.is_claiming and not was_claiming:
            pacing.read(now)
        claimer.is_topping_up = claimer.is_topping_up and claimer.is_claiming  # there was no room to ask for the rest
        if is_taken:
            runner.ended, runner.faults = [], []

    def _wait(self) -> None:
        """Sleeps until Redis, the engine or a signal has something; at most POLL_MS."""
        leases, runner = self._leases, self._runner
        if runner.death is not None:
            return
        wait_ms = min(POLL_MS, leases.until_reconnect_s() * 1e3 + 1)
        is_awaited = bool(leases.wire.under_way)
        is_resting = leases.claimer.claims.is_shut and not self._batcher.rows  # paused: nothing to ask for
        is_free = not is_awaited and runner.is_idle and leases.lost_since is None and not is_resting
        if is_free and (self._batcher.rows or not self._bodies.waiting):
            wait_ms = min(self._pacing.patience_ms(leases.redis_ms()), LOOK_AGAIN_MS)
            if wait_ms <= 0:
                return  # this turn made new work possible
        elif self._bodies.waiting:
            wait_ms = min(wait_ms, LOOK_EVERY_S * 1e3)
        else:
            wait_ms = min(wait_ms, self._pacing.due_ms(self._clock()))
        engine_fd, link_fd = runner.fileno(), leases.wire.link.fileno() if is_awaited else -1
        while True:
            ready = self._doorbell.wait((engine_fd, link_fd), wait_ms)
            if engine_fd in ready:
                runner.collect()
            elif not runner.is_idle:
                runner.check_hang()
            if link_fd not in ready:
                return
            leases.hear()
            if not leases.claimer.is_blocked or len(ready) > 1 or self._leaving.is_spent:
                return
            # A settle was answered and the blocked read was not: there is nothing new, and nothing may be sent.
            self._board.progress_at = self._clock()
