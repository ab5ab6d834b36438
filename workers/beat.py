"""The slot's second thread: announces it, renews its leases, learns what is paused, moves delayed jobs, sweeps for dead hosts.

Its own connection, so that a blocked read never stops the beat. It renews leases only while the loop makes progress: a
slot that hangs loses its leases like one that died, and one that hangs for good ends its process. It never claims,
settles or touches a payload.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from broker import bodies_sweep, paused, roster
from broker.connection import LOST, Command, Link, is_missing_group
from broker.lease import lane_and_entry
from broker.queue import Queue
from broker.settings_tables import SlotSettings
from workers.board import Board
from workers.late import Late
from workers.redis_clock import RedisClock

TICK_S = 0.25
READY_MS = 5_000  # a slot that beats no more counts as not ready after this
FAILING_MS = 300_000
SLEPT_S = 2.0  # a wait that lasts so much longer means that the whole process was stopped, a late answer that Redis was
SWEEP_S = 1.0  # a dead host's jobs go on within the lease time and two of these
# Ready for so long without a job counts as a good life, as a settled job does: what kills a model as it loads, or by its first
# requests, has done so by then.
STEADY_S = 10.0
STUCK_S = 10.0  # a loop that made no progress for so long is stuck, whatever the engine does

log = structlog.get_logger()


class Beat(threading.Thread):
    """Runs until `stop`. Losing Redis is not its affair: it tries again each tick, the loop decides."""

    def __init__(
        self,
        *,
        board: Board,
        queue: Queue,
        link: Link,
        settings: SlotSettings,
        on_stuck: Callable[[], None] | None = None,
        on_steady: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_stuck` is called when the loop hangs for good, `on_steady` once it has been ready for a while."""
        super().__init__(name="beat", daemon=True)
        self._board = board
        self._queue = queue
        self._link = link
        self._settings = settings
        self._on_stuck = on_stuck
        self._on_steady = on_steady
        self._ready_since = 0.0
        self._clock = clock
        self._redis = RedisClock(clock)
        self._late = Late()
        self._over = threading.Event()
        self._soon = threading.Event()
        self._next_beat = self._next_renewal = 0.0
        self._awake_since = 0.0
        self._next_sweep = self._next_recount = clock() + settings.lease_s / 2

    def run(self) -> None:
        while not self._over.is_set():
            self.watch(self._clock())  # whether Redis answers or not
            try:
                if self._link.fileno() < 0:
                    self._link.connect()
                    self.came_back(self._clock())
                self.tick(self._clock())
            except LOST:
                self._link.close()
            except Exception as error:  # noqa: BLE001 - the thread's edge: a dead beat would cost the slot its leases
                if not is_missing_group(error):
                    log.warning("beat failed", slot=self._board.name, error=str(error), retry_in_s=TICK_S)
            self._rest()
        self._link.close()

    def came_back(self, now: float) -> None:
        """After a connect: others were perhaps cut off as well, so each renews its leases before anybody sweeps."""
        self._next_beat = self._next_renewal = 0.0
        self._next_sweep = max(self._next_sweep, now + self._settings.lease_s)

    def hurry(self) -> None:
        """Beats now: the state changed and somebody may be waiting for it."""
        self._next_beat = 0.0
        self._soon.set()

    def stop(self) -> None:
        """Beats no more, and waits for the thread."""
        self._over.set()
        self._soon.set()
        self.join(5)

    def _rest(self) -> None:
        began = self._clock()
        self._soon.wait(TICK_S)
        self._soon.clear()
        now = self._clock()
        if now - began > TICK_S + SLEPT_S:  # SIGSTOP, or a machine that slept: the loop slept as well
            self._awake_since = now

    def silent_s(self, now: float) -> float:
        """For how long the loop has made no progress while this process could; 0 before it runs."""
        progress_at = self._board.progress_at
        return now - max(progress_at, self._awake_since) if progress_at else 0.0

    def watch(self, now: float) -> None:
        """Ends the process of a loop that hangs for good; says once that it serves."""
        if self._on_steady is not None and self._board.is_ready:
            self._ready_since = self._ready_since or now
            if now - self._ready_since >= STEADY_S:
                self._on_steady()
                self._on_steady = None
        if self.silent_s(now) > self._settings.lease_s + self._settings.hang_floor_s and self._on_stuck is not None:
            self._on_stuck()

    def tick(self, now: float) -> None:
        """What is due at monotonic time `now`, in one round trip."""
        board, settings = self._board, self._settings
        silent_s = self.silent_s(now)
        is_stuck = silent_s > STUCK_S
        commands: list[Command] = []
        pulse_at, late_at, sweep_at, frees_place = -1, -1, -1, board.frees_place
        if board.model and not is_stuck:
            commands.append(self._queue.move())
        if now >= self._next_beat:
            self._next_beat = now + settings.beat_s
            fields = board.fields() | {"silent_ms": round(silent_s * 1000)}
            commands.append(roster.announce(board.name, fields))
            if board.model:
                leases: list[tuple[int, bytes]] = []
                if now >= self._next_renewal and not is_stuck:
                    self._next_renewal = now + settings.lease_s / 3
                    leases = [lane_and_entry(lease) for lease in list(board.held)]
                pulse_at = len(commands)
                commands.append(
                    self._queue.pulse(
                        board.name,
                        leases,
                        ready_ms=READY_MS if board.is_ready and not is_stuck else 0,
                        failing_ms=FAILING_MS if board.is_failing else 0,
                        frees_place=frees_place,
                    )
                )
                if board.paused and board.is_ready:
                    late_at = len(commands)
                    commands.append(self._late.command(board.model, board.name, board.paused))
        if board.model and now >= self._next_sweep:
            self._next_sweep = now + min(SWEEP_S, settings.lease_s / 2)
            is_recounting = now >= self._next_recount
            if is_recounting:
                self._next_recount = now + settings.lease_s / 2
            sweep_at = len(commands)
            commands.append(
                self._queue.sweep(
                    lease_ms=round(settings.lease_s * 1000),
                    now_ms=max(0.0, self._redis.ms()),
                    is_recounting=is_recounting,
                )
            )
            if is_recounting:
                commands.append(bodies_sweep.orphans(board.model))
        if commands:
            began = self._clock()
            replies = self._link.call_all(commands)
            if self._clock() - began > SLEPT_S:  # Redis stood still, and everybody's renewals with it
                self.came_back(self._clock())
            if pulse_at >= 0 and not isinstance(replies[pulse_at], Exception):
                self._redis.hear(int(replies[pulse_at][0]))
                board.pause(paused.lanes_of(replies[pulse_at][2]))
                if frees_place:
                    board.frees_place = False  # once: a beat under way must not free the place of the next retirement
                if board.is_ready and not board.since_ms:
                    board.since_ms = int(replies[pulse_at][0])
            if late_at >= 0 and not isinstance(replies[late_at], Exception):
                self._late.hear(replies[late_at])
            if sweep_at >= 0 and len(replies) > sweep_at + 1 and isinstance(replies[-1], int) and replies[-1] > 0:
                log.warning(
                    "bodies swept", model=board.model, count=replies[-1], next="no job named them; room is free"
                )
            if sweep_at >= 0 and isinstance(replies[sweep_at], list):
                self._tell_sweep(*replies[sweep_at])
            self._answer(replies)

    def _tell_sweep(self, returned: int, deleted: int, drift: int) -> None:
        if returned or drift:
            log.warning(
                "swept", model=self._board.model, leases_returned=returned, consumers_deleted=deleted,
                bytes_corrected=drift, next="returned leases are claimed again; the byte counter is right now",
            )  # fmt: skip

    def _answer(self, replies: list[Any]) -> None:
        for reply in replies:
            if isinstance(reply, Exception):
                if "NOSCRIPT" in str(reply):
                    self._link.reload()
                    self._next_beat = self._next_renewal = 0.0
                elif not is_missing_group(reply):
                    raise reply
