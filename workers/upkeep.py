"""What a slot does beside its jobs: has memory measured, counts batches, heeds a pause, and hands on what it learned of caps and of T.

Sends by way of what it is given; decides only when. Not here: when to retire for memory (retire).
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from broker import caps as learned
from broker.connection import Command
from broker.timetable import Learned
from workers.batch import Batch
from workers.board import Board
from workers.exchange import Ran
from workers.leases import Leases
from workers.retire import Retirement
from workers.runner import Runner
from workers.save_schedule import SaveSchedule
from workers.timetable import Timetable

log = structlog.get_logger()


class Upkeep:
    """Of one slot; `remember` writes down what the timetable learned, None where nobody wants it."""

    def __init__(
        self,
        *,
        model: str,
        device: str,
        runner: Runner,
        leases: Leases,
        retirement: Retirement,
        board: Board,
        timetable: Timetable,
        remember: Callable[[list[Learned]], Command] | None,
        now: float,
    ) -> None:
        self._model = model
        self._device = device
        self._runner = runner
        self._leases = leases
        self._retirement = retirement
        self._board = board
        self._remember = remember
        self._save_schedule = SaveSchedule(timetable, now)
        self._sample_at = now + retirement.limits.sample_every_s
        runner.on_batch = self._count

    def turn(self, now: float) -> None:
        """Once a turn of the loop."""
        runner = self._runner
        if self._board.paused != self._leases.claimer.claims.paused:
            self._leases.pause(self._board.paused)
        if now >= self._sample_at:
            self._sample_at = now + self._retirement.limits.sample_every_s
            runner.measure()
        if runner.usage is not None:
            usage, runner.usage = runner.usage, None
            self._board.host_bytes, self._board.device_bytes = usage.host_bytes, usage.device_bytes
            self._retirement.sample(usage)
        if runner.learned:
            self._share()
        if now >= self._save_schedule.due_at:
            self.keep(now)

    def keep(self, now: float, *, is_over: bool = False) -> None:
        """Writes down what forwards take; at the end, or when that is due and the wire is free."""
        if self._remember is not None and not self._leases.claimer.is_blocked:
            sizes = self._save_schedule.due(now, is_over=is_over)
            if sizes:
                self._leases.tell(self._remember(sizes))

    def _share(self) -> None:
        """Tells the other slots on this device how many rows fit."""
        changes, self._runner.learned = self._runner.learned, []
        for change in changes:
            log.warning("batch cap learned", device=self._device, dims=change.dims, cap=change.cap and change.cap.rows)
        self._leases.tell(learned.save(self._model, self._device, {change.dims: change.cap for change in changes}))

    def _count(self, batch: Batch, ran: Ran) -> None:
        board = self._board
        board.batches += batch.forwards
        board.rows += batch.rows
        board.padded_rows += batch.bucket
        board.totals.append(self._leases.redis_ms() - batch.pieces[0].job.submitted_ms)
