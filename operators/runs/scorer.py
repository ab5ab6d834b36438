"""Scores the chunks of one run: keeps the pool busy, has parts written in order, notes how far it is. The loop of the runs program.

    chunk -> pieces -> jobs of the low lane -> answers -> page -> part

Reading and writing have threads of their own; what is here is between them, and alone speaks for the run.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from broker.errors import LeaseLost, RunError
from broker.runs import RowError
from operators.runs.courier import Courier
from operators.runs.data.binding import Group
from operators.runs.lease import Lease
from operators.runs.pace import Speed
from operators.runs.pieces import Pieces, Scoring
from operators.runs.watch import Stopped, Watch
from operators.runs.writer import Part, Writer

TICK_S = 1.0
POLL_S = 0.05
REASON_CHARS = 300


class Feed(Protocol):
    """Where chunks come from: the input, read ahead, or the rows of it that failed before."""

    is_over: bool

    def take(self) -> tuple[Scoring, tuple[Group, ...]] | None: ...

    def stop(self) -> None: ...


class Count(msgspec.Struct):
    """How far a run is: what is written. `total`: None where only reading tells."""

    total: int | None = None
    parts: int = 0
    rows: int = 0
    failed: int = 0


class Scorer:
    """One turn of one run."""

    def __init__(
        self, *, feed: Feed, courier: Courier, pieces: Pieces, writer: Writer, lease: Lease, count: Count, error_limit: int,
        watch: Watch, tell: Callable[[Mapping[str, Any]], None], is_retry: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._feed = feed
        self._courier = courier
        self._pieces = pieces
        self._writer = writer
        self._lease = lease
        self._count = count
        self._error_limit = error_limit
        self._watch = watch
        self._tell = tell
        self._is_retry = is_retry
        self._clock = clock
        self._open: deque[Scoring] = deque()  # chunks under way, in order
        self._closed: Part | None = None  # the first of them, if it only waits for room with the writer
        self._failed = count.failed  # as it will be once all closed chunks are written
        self._seen = (0, 0)
        self._speed = Speed()
        self._next_tick = 0.0
        self._is_closing = False  # takes no new chunk: others are to go on
        self._is_last_given = False

    def run(self) -> Stopped | None:
        """Until all parts are written (None), or why not. Raises what reading, writing or the pool raise, and LeaseLost."""
        try:
            while not self._writer.is_ended:
                moved = self._begin() | self._courier.send()
                moved |= self._courier.fetch(0.0 if moved else POLL_S)
                moved |= self._end_chunks() | self._count_parts()
                if not moved and self._courier.is_idle:
                    time.sleep(POLL_S / 5)  # reading or writing is what is waited for
                if self._clock() >= self._next_tick and (stopped := self.tick()):
                    return stopped
            self._count_parts()
            self.tick()
            return Stopped("queued", "others go on") if not self._feed.is_over else None
        finally:
            self._feed.stop()
            self._courier.let_go()
            self._writer.stop(self._renew)

    def _begin(self) -> bool:
        """Begins the next chunk as soon as pieces of it could be submitted."""
        if self._is_closing or not self._courier.has_room:
            return False
        taken = self._feed.take()
        if taken is None:
            return False
        scoring, groups = taken
        self._open.append(scoring)
        self._pieces.add(scoring, groups)
        return True

    def _end_chunks(self) -> bool:
        """Hands the first chunks to the writer when they have all their answers."""
        moved = False
        while self._open and self._open[0].is_done:
            part = self._closed or self._close(self._open[0])
            self._closed = part
            if part is None or not self._writer.give(part):
                break
            self._open.popleft()
            self._closed = None
            moved = True
        if not self._open and not self._is_last_given and (self._feed.is_over or self._is_closing):
            self._is_last_given = self._writer.end()
        return moved

    def _count_parts(self) -> bool:
        self._writer.check()
        moved = False
        while self._writer.written:
            part = self._writer.written.popleft()
            self._count.failed += part.failed - part.failed_before
            if not self._is_retry:
                self._count.parts += 1
                self._count.rows += part.rows
            moved = True
        return moved

    def _close(self, scoring: Scoring) -> Part | None:
        """A chunk as a part. Its failed rows are noted before it is written, so that none is missing when we are killed in between;
        None while Redis is away."""
        failed = scoring.page.failed
        if failed:
            rows = [row_error(scoring, row, why) for row, why in sorted(failed.items())]
            if self._lease.note({}, failed=rows) is None:
                return None
            self._failed += len(failed) - scoring.failed_before
            if self._failed > self._error_limit:
                raise RunError(
                    f"{self._failed} rows failed, more than its error_limit of {self._error_limit}; the last ones with row "
                    f"{rows[0].row}: {rows[0].error[:REASON_CHARS]}; mend the input, or submit it again with a higher limit"
                )
        return Part(scoring.index, scoring.first_row, scoring.rows, len(failed), scoring.failed_before, scoring.finish)

    def tick(self) -> Stopped | None:
        """Notes how far it is; whether to stop."""
        now = self._clock()
        self._next_tick = now + TICK_S
        seen = (self._courier.answered, self._count.parts)
        fields = self._progress(self._speed.saw(self._courier.answered, now))
        asked = self._lease.note(fields, is_progress=seen != self._seen)
        self._seen = seen
        self._tell(fields)
        if asked in ("pause", "cancel"):
            return Stopped("queued", asked)  # becomes what was asked for
        self._courier.note_slots(self._watch.slots())
        self._is_closing = self._is_closing or self._watch.is_time_up()
        return self._watch.stopped()

    def _renew(self) -> None:
        if not self._lease.is_lost:
            with suppress(LeaseLost):
                self._lease.note({})

    def _progress(self, rows_per_s: float) -> dict[str, str | int | float]:
        """The fields of the run's hash."""
        count = self._count
        fields: dict[str, str | int | float] = {
            "rows_done": count.rows, "rows_failed": count.failed,
            "rows_per_s": round(rows_per_s, 1), "doing": self._doing()[:REASON_CHARS], "eta_s": "",
        }  # fmt: skip
        if count.total is not None:
            fields["rows_total"] = max(count.total, count.rows)
            if rows_per_s > 0:
                fields["eta_s"] = round(max(0, count.total - count.rows) / rows_per_s, 1)
        return fields

    def _doing(self) -> str:
        if self._courier.doing:
            return self._courier.doing
        if self._courier.is_idle:
            return "writes its output" if self._open or self._feed.is_over else "reads its input"
        return self._watch.waits_for()


def row_error(scoring: Scoring, row: int, why: str) -> RowError:
    """A failed row as Redis keeps it. Keys are shown as JSON can show them."""
    keys = {name: _plain(scoring.keys[name][row].as_py()) for name in scoring.keys.column_names}
    return RowError(scoring.row(row), keys, why)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
