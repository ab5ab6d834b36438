"""Takes pieces to the pool and brings their answers back: what each refusal, loss or failure of a job means for its rows.

Decides nothing about chunks or files; see `scorer`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from broker.errors import (
    DecodeError,
    InvalidInput,
    JobCancelled,
    JobFailed,
    KeyConflict,
    PayloadTooLarge,
    PenstockError,
    QueueFull,
    RedisRefused,
    RedisUnavailable,
    ResultExpired,
    ResultTimeout,
    RunError,
    StaleRequest,
    StoreError,
    SubmitNotDurable,
    SubmitUnknown,
)
from operators.runs.pace import Throttle, Window
from operators.runs.pieces import LANE, Piece, Pieces
from producer.client import Producer
from producer.handle import Handle
from producer.results import Result

SEND_BYTES, SEND_JOBS = 8 << 20, 64  # of pieces in one round trip
RESULT_TTL_S = 120  # a successor must find them; those over 4 KB are stored for a minute anyhow
LET_GO_S = 3.0
AWAY_PAUSE_S = 0.5
GATHER_S = 0.01  # while nothing can be submitted: answers are taken several at a time


class VersionChanged(RunError):
    """Raised when a slot answered with another version of the model than the run's."""


class Courier:
    """The jobs of one run. `clock` is monotonic."""

    def __init__(
        self, producer: Producer, model: str, *, run: str, round: str, version: str, pieces: Pieces, window: Window,
        throttle: Throttle, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._producer = producer
        self._model = model
        self._run = run
        self._round = round
        self._version = version
        self._pieces = pieces
        self._window = window
        self._throttle = throttle
        self._clock = clock
        self._out: deque[tuple[Handle, Piece]] = deque()
        self._not_before = 0.0
        self.doing = ""  # why nothing goes on, where something is known
        self.answered = 0  # rows that have an answer or an error

    @property
    def is_idle(self) -> bool:
        """Nothing is under way and nothing waits to be."""
        return not self._out and self._pieces.peek() is None

    @property
    def has_room(self) -> bool:
        """Whether pieces could be submitted if there were any."""
        piece = self._pieces.peek()
        return piece is None and self._window.has_room(0)

    def note_slots(self, slots: int) -> None:
        """So many slots work for the model now."""
        self._window.note_slots(slots)

    # --- there ------------------------------------------------------------------------------

    def send(self) -> bool:
        """Submits as many pieces as may go in one round trip; whether it submitted any."""
        now = self._clock()
        if now < self._not_before or self._throttle.wait_s(now) > 0:
            return False
        batch: list[Piece] = []
        size = 0
        while len(batch) < SEND_JOBS and size < SEND_BYTES and (piece := self._pieces.peek()) is not None:
            if not self._window.has_room(piece.size_bytes) or (batch and self._throttle.wait_s(now) > 0):
                break
            batch.append(self._pieces.take())
            size += piece.size_bytes
            self._window.take(piece.size_bytes)
            self._throttle.take(piece.count)
        if not batch:
            return False
        self._submit(batch)
        return True

    def _submit(self, batch: list[Piece]) -> None:
        handles: list[Any] = []
        rest: list[Piece] = []
        try:
            handles = self._producer.submit_many(
                self._model, [piece.inputs for piece in batch], lane=LANE, result_ttl_s=RESULT_TTL_S,
                idempotency_keys=[piece.key(self._run, self._round) for piece in batch],
            )  # fmt: skip
            self.doing = ""
        except PenstockError as error:
            handles = list(error.accepted)
            rest = batch[len(handles) :]
            self._refused(error, rest, len(handles))
        self._out.extend(zip(handles, batch, strict=False))

    def _refused(self, error: PenstockError, rest: list[Piece], count: int) -> None:
        """What becomes of the pieces that were not queued, behind `count` that were: the first is the one refused, or `error.index`."""
        for piece in rest:
            self._window.give(piece.size_bytes)
        now = self._clock()
        if isinstance(error, QueueFull):
            self._not_before, self.doing = now + error.retry_after_s, "waits for room in the queue"
            self._pieces.put_back(*rest)
        elif isinstance(error, RedisRefused):
            raise error
        elif isinstance(error, RedisUnavailable | SubmitUnknown | StoreError) and not isinstance(
            error, SubmitNotDurable
        ):
            self._not_before, self.doing = now + AWAY_PAUSE_S, f"cannot submit: {error}"
            self._pieces.put_back(*rest)  # under the same keys: what was queued all the same is the same job
        elif isinstance(error, StaleRequest):
            self._pieces.put_back(*rest)
        elif isinstance(error, KeyConflict | InvalidInput | PayloadTooLarge) and rest:
            at = max(0, error.index - count)  # those before an input that is wrong were not sent either
            self._pieces.put_back(*rest[:at], *rest[at + 1 :])
            if isinstance(error, KeyConflict):
                self._lost(rest[at], error)
            else:
                self._blame(rest[at], str(error))
        else:
            raise error

    # --- and back ---------------------------------------------------------------------------

    def fetch(self, timeout_s: float) -> bool:
        """Takes what came of the jobs, the oldest first, waiting for the first of them; whether any came."""
        came = False
        if self._window.is_gathering:
            time.sleep(GATHER_S)
        while self._out:
            handle, piece = self._out[0]
            try:
                result = handle.result(0.0 if came else timeout_s)
            except ResultTimeout:
                if timeout_s > 0 and not came:
                    self._window.widen()
                break
            except ResultExpired as error:
                self._came(piece)
                self._lost(piece, error)
            except JobCancelled as error:
                self._came(piece)
                self._lost(piece, error)
            except (JobFailed, DecodeError) as error:
                self._came(piece)
                self._blame(piece, _reason(error))
            except RedisUnavailable as error:
                if isinstance(error, RedisRefused):
                    raise
                self.doing = f"waits for Redis: {error}"
                break
            else:
                self._came(piece)
                self._take(piece, result)
            came = True
        if came:
            self.doing = ""
        return came

    def let_go(self) -> None:
        """Cancels what is under way, for a run that is left: nobody waits for it. What cannot be in time runs and is not read."""
        give_up_at = self._clock() + LET_GO_S
        for handle, _ in reversed(self._out):
            if self._clock() >= give_up_at:
                break
            try:
                handle.cancel()
            except PenstockError:
                break
        self._out.clear()

    def _came(self, piece: Piece) -> None:
        self._out.popleft()
        self._window.give(piece.size_bytes)

    def _take(self, piece: Piece, result: Result) -> None:
        if result.version != self._version:
            raise VersionChanged(
                f"model {self._model!r} now answers as version {result.version}, and this run is on {self._version}; serve that "
                f"version again and `penstock run resume {self._run}`, or submit it with --if-exists overwrite"
            )
        page, rows = piece.scoring.page, piece.rows
        if result.outputs:
            is_one = isinstance(piece.group.inputs, list)
            page.put(rows, {name: array[None] if is_one else array for name, array in result.outputs.items()})
        else:
            page.put_values(rows, [result.value] if isinstance(piece.group.inputs, list) else result.value)
        for row, text in result.row_errors.items():
            page.fail(int(rows[row]), text)
        self._settled(piece)

    def _blame(self, piece: Piece, why: str) -> None:
        """A job failed: its rows are tried in halves, until the one at fault stands alone."""
        if piece.count > 1:
            self._pieces.put_back(*piece.halves())
            return
        piece.scoring.page.fail(int(piece.rows[0]), why)
        self._settled(piece)

    def _lost(self, piece: Piece, error: PenstockError) -> None:
        """What became of a job cannot be known any more: it is submitted as another one."""
        if piece.is_hopeless:
            raise RunError(
                f"the same rows were lost {piece.losses + 1} times, at last so: {error}; then resume the run"
            )
        self._pieces.put_back(piece.again())

    def _settled(self, piece: Piece) -> None:
        piece.scoring.left -= piece.count
        self.answered += piece.count


def _reason(error: PenstockError) -> str:
    """A job's error without the job's name, which says nothing to who reads the output."""
    text = str(error)
    mark = ": "
    return text.partition(mark)[2] if isinstance(error, JobFailed) and mark in text else text
