"""Groups claimed jobs into batches by shape, rows and bytes. Decides; never touches Redis, slabs or the device.

Higher lanes first, but a lane that waited through seven batches begins the next, so that none starves in hand; oldest first
within a lane. Lower lanes fill up what a batch of a higher one leaves over. A batch holds one shape bucket; a job of another
shape may be overtaken in its lane once, never twice. A job with more rows than fit is split; its rest stays at the front of
its lane, so that higher lanes come in between. A job that a death has marked runs alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

from broker.messages import LANES, Job
from broker.spec import ModelSpec
from broker.timetable import Dims
from workers.batch import Batch, Coming, InHand, Piece
from workers.batch_limits import BatchLimits
from workers.shapes import Misfit, Shapes
from workers.timetable import Timetable

BEGINS_EVERY = 8  # batches within which each lane that waits begins one
FULL_EARLY = (4, 8, 16, 32)  # these batches are made as large as may be: a warm-up at a bad moment is outvoted
FULL_EVERY = 2048  # and then one in so many, so that the time of that size stays known
TRIES_ONE_EVERY = 64  # jobs given up for their deadlines with nothing run between them


class Batcher:
    """Jobs in hand that wait for the engine, and how they become batches."""

    def __init__(
        self, spec: ModelSpec, *, row_buckets: tuple[int, ...], max_rows: int, batch_bytes: int, most_forwards: int = 1
    ) -> None:
        """`most_forwards`: whole batches of one job that may go to the engine together."""
        self.row_buckets = (*(size for size in row_buckets if size < max_rows), max_rows)
        self.max_rows = max_rows
        self.batch_bytes = batch_bytes
        self._most_forwards = most_forwards
        self.rows = 0  # rows waiting
        # Bounds nothing.
        self.batch_limits = BatchLimits(Timetable(floor_s=0.0, factor=0.0), self.row_buckets, low_batch_ms=0.0)
        self._shapes = Shapes(spec)
        self._waited = [0] * len(LANES)  # batches that others began while a job of the lane was here
        self._packs = 0
        self.is_full_due = 1 in FULL_EARLY  # whether the next batch shall be as large as may be
        self._coming: Coming | None = None  # as long as nothing comes or goes
        self._given_up = 0  # jobs since the last batch, for their deadlines
        self.has_deadlines = False  # whether a job here may have one
        self._lanes: tuple[deque[InHand], ...] = tuple(deque() for _ in LANES)

    def add(self, jobs: list[Job]) -> list[Misfit]:
        """Takes claimed jobs in; those that do not fit the model come back."""
        self._coming = None
        misfits = []
        for job in jobs:
            dims = self._shapes.dims(job)
            if isinstance(dims, str):
                misfits.append(Misfit(job, dims))
            else:
                self._lanes[job.lane].append(InHand(job, dims))
                self.rows += job.rows
                if job.deadline_ms:
                    self.has_deadlines = True
        return misfits

    def hopeless(self, now_ms: float) -> list[Job]:
        """Takes out the jobs that would end past their deadline, before a forward is spent on them.

        Those that would be late even at once and alone; and while others fill the next batch without them, those that would be
        late in it. So a late job never makes a batch small. Jobs that were begun are kept. Should jobs be given up again and
        again and none run, one runs all the same: what is known of T may be wrong, and only a forward can tell.
        """
        coming = self.coming() if self.has_deadlines else None
        if coming is None:
            return []
        self.has_deadlines = False
        spare = sum(one.rows_left for lane in self._lanes for one in lane if one.dims == coming.dims) - coming.rows
        late: list[Job] = []
        for one in (one for lane in self._lanes for one in lane if one.job.deadline_ms):
            slack_ms = one.job.deadline_ms - now_ms
            is_late = slack_ms < self.batch_limits.least_ms(one.dims)
            is_too_much = slack_ms < coming.ms and one.dims == coming.dims and spare >= one.rows_left
            if not one.start and (is_late or is_too_much):
                late.append(one.job)
                spare -= one.rows_left if one.dims == coming.dims else 0
            else:
                self.has_deadlines = True
        self._given_up += len(late)
        if (
            self._given_up > TRIES_ONE_EVERY
            and self.rows == sum(job.rows for job in late)
            and late[-1].deadline_ms > now_ms
        ):
            late.pop()
            self.has_deadlines = True
        if late:
            self.drop({job.lease for job in late})
        return late

    @property
    def jobs(self) -> int:
        """Jobs waiting, one that was begun included."""
        return sum(map(len, self._lanes))

    def rows_in(self, lane: int) -> int:
        """Rows that wait in one lane."""
        if not self._lanes[lane]:
            return 0
        is_only = not any(one for number, one in enumerate(self._lanes) if number != lane)
        return self.rows if is_only else sum(one.rows_left for one in self._lanes[lane])

    def tightest_ms(self) -> float:
        """The earliest deadline of the jobs in hand, in Redis' time."""
        if not self.has_deadlines:
            return float("inf")
        jobs = (one.job for lane in self._lanes for one in lane)
        return min((job.deadline_ms for job in jobs if job.deadline_ms), default=float("inf"))

    def clear(self) -> list[Job]:
        """Takes all jobs out, started ones too."""
        self._coming = None
        jobs = [waiting.job for lane in self._lanes for waiting in lane]
        for lane in self._lanes:
            lane.clear()
        self.rows = 0
        return jobs

    def drop(self, leases: set[bytes]) -> None:
        """Forgets jobs, started ones too."""
        self._coming = None
        for lane in self._lanes:
            kept = [waiting for waiting in lane if waiting.job.lease not in leases]
            self.rows -= sum(waiting.rows_left for waiting in lane) - sum(waiting.rows_left for waiting in kept)
            lane.clear()
            lane.extend(kept)

    def coming(self) -> Coming | None:
        """What `pack` would make now; None when no job waits."""
        if not self.rows:
            return None
        known = self._coming
        lane = known.lane if known is not None else self._begins()
        dims = self._lanes[lane][0].dims
        most = self.batch_limits.most(dims, lane)
        if known is not None and known.most == most:
            return known
        rows = self.batch_limits.fill(dims, min(self.rows, most))
        ms, is_full = self.batch_limits.typical_ms(dims, rows), rows == most or rows < self.rows
        head = self._lanes[lane][0]
        most_forwards = self._most_forwards if head.job.deliveries <= 1 else 1
        count = self.batch_limits.forwards(most_forwards, dims, lane, rows, head.rows_left)
        self._coming = Coming(lane, rows * count, dims, ms * count, is_full, most, count)
        return self._coming

    def pack(self) -> Batch | None:
        """The next batch, or None when no job waits."""
        coming = self.coming()
        if coming is None:
            return None
        self._coming = None
        begins, dims, most = coming.lane, coming.dims, coming.rows
        for number, lane in enumerate(self._lanes):
            self._waited[number] = self._waited[number] + 1 if lane and number != begins else 0
        self._given_up = 0
        head = self._lanes[begins][0]
        if head.job.deliveries > 1:
            return self._take_alone(head, coming.most)
        if self.is_full_due:
            most = max(most, coming.most)
        self._packs += 1
        self.is_full_due = self._packs + 1 in FULL_EARLY or (self._packs + 1) % FULL_EVERY == 0
        pieces: list[Piece] = []
        rows, size = self._take_from(self._lanes[begins], dims, most, pieces, 0, 0)
        for number, lane in enumerate(self._lanes):
            if lane and number != begins and rows < most:
                limit = most if number < begins else min(most, self.batch_limits.company(dims, rows))
                before = rows
                rows, size = self._take_from(lane, dims, limit, pieces, rows, size)
                if rows > before:
                    self._waited[number] = 0  # served, if as company: it need not begin a batch of its own
        self.rows -= rows
        return Batch(pieces, rows, self.bucket(rows) if coming.forwards == 1 else rows, dims, coming.forwards)

    def _begins(self) -> int:
        """The lane whose oldest job begins the next batch; the lowest of those that waited long enough, else the highest."""
        for number in reversed(range(len(LANES))):
            if self._waited[number] >= BEGINS_EVERY - 1 and self._lanes[number]:
                return number
        for number, lane in enumerate(self._lanes):  # noqa: B007 - one of them holds a job
            if lane:
                break
        return number

    def _take_from(
        self, lane: deque[InHand], dims: Dims, most: int, pieces: list[Piece], rows: int, size: int
    ) -> tuple[int, int]:
        """Takes what fits from one lane; rows and bytes of the batch so far."""
        passed: list[InHand] = []
        counted = 0
        while lane and rows < most:
            waiting = lane[0]
            job = waiting.job
            if waiting.dims != dims or job.deliveries > 1 or (rows and size + job.size > self.batch_bytes):
                if waiting.was_passed:
                    break
                passed.append(lane.popleft())
                continue
            for overtaken in passed[counted:]:
                overtaken.was_passed = True
            counted = len(passed)
            take = min(waiting.rows_left, most - rows)
            pieces.append(Piece(job, waiting.start, waiting.start + take))
            rows += take
            size += job.size
            if take == waiting.rows_left:
                lane.popleft()
            else:
                waiting.start += take
        lane.extendleft(reversed(passed))
        return rows, size

    def bucket(self, rows: int) -> int:
        """The row bucket that `rows` are padded to."""
        return self.row_buckets[bisect_left(self.row_buckets, rows)]

    def _take_alone(self, waiting: InHand, most: int) -> Batch:
        lane = self._lanes[waiting.job.lane]
        lane.remove(waiting)
        take = min(waiting.rows_left, most)
        piece = Piece(waiting.job, waiting.start, waiting.start + take)
        if take < waiting.rows_left:
            waiting.start += take
            lane.appendleft(waiting)
        self.rows -= take
        return Batch([piece], take, self.bucket(take), waiting.dims)
