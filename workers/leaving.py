"""How a slot leaves: why and when, what it still finishes, and what it tells Redis last. Asked to, due to retire, or bereft.

A slot that leaves claims no more. What runs is finished and settled; what it read ahead, and what an engine that died never
ran, goes back unharmed.

Not here: the limits (retire), a spare that comes first (overlap).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog

from broker.claimed import MOST_MARKS
from broker.queue import Queue
from broker.settings_tables import SlotSettings
from workers.batcher import Batcher
from workers.board import Board
from workers.bodies import Bodies
from workers.claims import NO_ROOM
from workers.exits import Exit
from workers.failures import POLICIES, Kind
from workers.faults import fault_of
from workers.leases import Leases
from workers.overlap import Overlap
from workers.retire import Retirement, Verdict
from workers.runner import Runner

log = structlog.get_logger()

CONSIDER_EVERY_S = 0.05  # how often a slot looks whether it is due, but for its job limit
ASK_AGAIN_S = 0.2  # how often a slot that must retire asks for its place
LAST_WORDS_S = 5.0
NEVER = float("inf")


class Leaving:
    """The end of one incarnation's loop; `verdict` is None while it goes on. Times are those of `clock`."""

    def __init__(
        self,
        *,
        queue: Queue,
        leases: Leases,
        runner: Runner,
        batcher: Batcher,
        bodies: Bodies,
        retirement: Retirement,
        board: Board,
        settings: SlotSettings,
        hurry: Callable[[], None],
        wake: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """`hurry` makes the beat tell now, `wake` ends the loop's wait."""
        self.verdict: Verdict | None = None
        self._queue = queue
        self._leases = leases
        self._runner = runner
        self._batcher = batcher
        self._bodies = bodies
        self._retirement = retirement
        self._board = board
        self._settings = settings
        self._hurry = hurry
        self._wake = wake
        self._clock = clock
        self._leave_by = NEVER
        self._last_words_s = LAST_WORDS_S
        self._consider_at = self._next_ask = 0.0
        self._due_since = NEVER
        self._overlap: Overlap | None = None
        if retirement.limits.overlap:
            self._overlap = Overlap(
                name=board.name, pid=board.pid, model=queue.model, load_timeout_s=settings.load_timeout_s,
                redis_ms=leases.redis_ms,
            )  # fmt: skip

    # --- why ----------------------------------------------------------------------------------

    def ask(self, exit_code: Exit, detail: str, *, within_s: float = NEVER) -> None:
        """Asks the slot to drain, within the settings' time or `within_s`. Safe in signal handlers and other threads."""
        if self.verdict is None:
            is_asked = exit_code is Exit.DRAINED and self._overlap is not None
            reason = self._overlap.reason if is_asked and self._overlap is not None else None
            self.verdict = reason or Verdict(exit_code, detail)  # the stop a slot asked for is its own retirement
        self._leave_by = min(self._leave_by, self._clock() + within_s)
        self._last_words_s = min(self._last_words_s, within_s)
        self._wake()

    @property
    def is_spent(self) -> bool:
        """Whether the job limit is reached."""
        return 0 < self._retirement.max_jobs <= self._board.jobs

    def consider(self, now: float) -> None:
        """Asks to retire, once that is due: with a spare, or with a place among those that retire."""
        if self.verdict is not None or (now < self._consider_at and not self.is_spent):
            return
        self._consider_at = now + CONSIDER_EVERY_S
        verdict = self._retirement.due(self._board.jobs, now)
        if self._retirement.is_too_fast and not self._board.reason:
            self._board.reason = "retiring too fast: a limit is reached before the minimum life; see `penstock doctor`"
            log.warning("retiring too fast", jobs=self._board.jobs, next="the slot goes on until its minimum life")
        if verdict is None:
            return
        self._due_since = min(self._due_since, now)
        if verdict.is_hard:
            self.ask(verdict.exit, verdict.detail)
        elif self._overlap is not None and not self._overlap.has_given_up:
            self._overlap.pursue(verdict, now, self._leases.ask)
        elif now >= self._next_ask:
            self._next_ask = now + ASK_AGAIN_S
            self._ask_for_place(verdict, now)

    def _ask_for_place(self, verdict: Verdict, now: float) -> None:
        def placed(reply: Any) -> None:
            if reply == 1:
                self._board.frees_place = False
                self.ask(verdict.exit, verdict.detail)

        ttl_ms = round((self._board.load_s * 3 + self._settings.drain_s + 10) * 1000)
        overdue_ms = round((now - self._due_since) * 1000)
        self._leases.ask(
            self._queue.ask_to_retire(self._board.name, place_ttl_ms=ttl_ms, overdue_ms=overdue_ms), placed
        )

    # --- how ----------------------------------------------------------------------------------

    def begin(self, verdict: Verdict, now: float) -> None:
        """Claims no more, returns what was read ahead; what runs is finished and settled."""
        self._leases.is_leaving = True
        self._leases.hang_up()
        self._leave_by = min(self._leave_by, now + self._settings.drain_s)
        self._board.is_ready = False
        self._board.state = "retiring" if verdict.exit else "draining"
        self._board.reason = verdict.detail
        self._hurry()
        log.info("slot draining", why=verdict.exit.reason, detail=verdict.detail)
        ahead = self._batcher.clear() + self._bodies.clear()
        self._runner.forget({job.lease for job in ahead})
        self._leases.give_back(ahead, marks=0)

    def is_over(self, now: float) -> bool:
        """Whether nothing is left to finish, or no time for it."""
        runner = self._runner
        is_drained = runner.is_empty and not runner.ended and not runner.faults and self._leases.is_quiet
        return is_drained or now > self._leave_by

    def bury(self) -> Verdict:
        """The engine died: its batch is marked, so that its jobs run alone next time; a job with too many marks is dead."""
        death = self._runner.death
        assert death is not None
        self._leases.hang_up()
        exit_code, kind = Exit.ENGINE_DIED, Kind.ENGINE_DEATH
        if self._runner.has_failed_device:
            exit_code, kind = Exit.DEVICE_FAULT, Kind.DEVICE_FAULT
        elif self._runner.has_hung:
            exit_code, kind = Exit.HANG, Kind.HANG
        reason = POLICIES[kind].reason
        marked = []
        for job in self._runner.blamed():
            if job.deliveries >= MOST_MARKS:
                text = f"{death}; {job.deliveries} engines died while they ran this job"
                now_ms = self._leases.redis_ms()
                self._runner.faults.append(fault_of(job, "dead", reason=reason, text=text, now_ms=now_ms))
            else:
                marked.append(job)
        self._leases.give_back(marked, marks=1)
        return self.end(Verdict(exit_code, str(death)))

    def end(self, verdict: Verdict) -> Verdict:
        """Tells Redis what it still must know, for a few seconds at most, and returns all that never ran."""
        self._board.is_ready = False
        leases, runner = self._leases, self._runner
        leases.is_leaving = True
        blamed = {job.lease for job in runner.blamed()} if runner.death is not None else set()
        unrun = [job for lease, job in runner.jobs().items() if lease not in blamed]
        unrun += [job for job in self._batcher.clear() + self._bodies.clear() if job.lease not in blamed]
        leases.give_back(list({job.lease: job for job in unrun}.values()), marks=0)
        began = self._clock()
        while self._clock() < began + self._last_words_s:
            if leases.talk(runner.ended, runner.faults, rooms=NO_ROOM, is_busy=True, block_ms=0):
                runner.ended, runner.faults = [], []
            if leases.is_quiet:
                return verdict
            if leases.wire.under_way:
                leases.hear()
            else:
                time.sleep(min(0.05, leases.until_reconnect_s()))
        log.warning("redis lost at the end", next="the next incarnation returns what is left")
        return verdict
