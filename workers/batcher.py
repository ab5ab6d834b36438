"""Groups claimed jobs into batches by shape, rows and bytes. Decides; never touches Redis, slabs or the device.

Higher lanes first (every 8th batch the lowest, so that none starves in hand), oldest first within a lane. A batch holds
one shape bucket; a job of another shape may be overtaken in its lane once, never twice. A job with more rows than fit is
split; its rest stays at the front of its lane, so that higher lanes come in between. A job that a death has marked runs
alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable

import msgspec

from broker.messages import LANES, Job, Signature
from broker.spec import ModelSpec

Dims = tuple[int, ...]
LOWEST_FIRST_EVERY = 8


class Misfit(msgspec.Struct, frozen=True):
    """A job that does not fit the model's spec, and why; its producer did not validate it."""

    job: Job
    text: str


class Piece(msgspec.Struct, frozen=True, gc=False):
    """Rows `start` to `stop` of a job."""

    job: Job
    start: int
    stop: int


class Batch(msgspec.Struct, frozen=True):
    """What one forward takes: pieces of one shape bucket, `rows` rows in all, padded to `bucket` rows and `dims`."""

    pieces: list[Piece]
    rows: int
    bucket: int
    dims: Dims


class Shapes:
    """Which shape bucket a job falls into, by its signature; remembers the last one, which nearly always repeats."""

    def __init__(self, spec: ModelSpec) -> None:
        self.takes_raw = spec.takes != "tensors"
        self.varying = sorted({dim for tensor in spec.inputs for dim in tensor.shape if isinstance(dim, str)})
        self._spec = spec
        self._last: Signature | None = None
        self._last_dims: Dims | str = ()

    def dims(self, job: Job) -> Dims | str:
        """Padded sizes of the varying dimensions, or the text of a misfit."""
        if self.takes_raw:
            if not job.kind:
                return "the model takes raw input, the job brings tensors"
            return () if job.rows == 1 else f"raw input is one row a job, this one declares {job.rows}"
        if job.kind:
            return "the model takes tensors, the job brings raw input"
        if job.signature is not self._last:
            self._last_dims = self._fit(job.signature)
            self._last = job.signature
        return self._last_dims

    def _fit(self, signature: Signature) -> Dims | str:
        inputs = self._spec.inputs
        if len(signature.columns) != len(inputs):
            return f"the model takes {len(inputs)} inputs, the job brings {len(signature.columns)}"
        sizes: dict[str, int] = {}
        for tensor, column in zip(inputs, signature.columns, strict=True):
            is_fit = (
                column.name == tensor.name and column.dtype == tensor.dtype and len(column.shape) == len(tensor.shape)
            )
            for dim, size in zip(tensor.shape, column.shape, strict=False):
                is_fit = is_fit and (sizes.setdefault(dim, size) == size if isinstance(dim, str) else dim == size)
            if not is_fit:
                came = f"{column.name} {column.dtype}{list(column.shape)}"
                return (
                    f"input {tensor.name!r} must be {tensor.dtype}{list(tensor.shape)} per row, the job brings {came}"
                )
        dims = []
        for name in self.varying:
            buckets = self._spec.buckets[name]
            at = bisect_left(buckets, sizes[name])
            if at == len(buckets):
                return f"dimension {name!r} is {sizes[name]}, the largest bucket is {buckets[-1]}"
            dims.append(buckets[at])
        return tuple(dims)


class Batcher:
    """Jobs in hand that wait for the engine, and how they become batches."""

    def __init__(self, spec: ModelSpec, *, row_buckets: tuple[int, ...], max_rows: int, batch_bytes: int) -> None:
        self.row_buckets = (*(size for size in row_buckets if size < max_rows), max_rows)
        self.max_rows = max_rows
        self.batch_bytes = batch_bytes
        self.rows = 0  # rows waiting
        self.cap: Callable[[Dims], int] = lambda dims: max_rows  # rows a batch of that shape may have now
        self._shapes = Shapes(spec)
        self._packs = 0
        self._lanes: tuple[deque[_Waiting], ...] = tuple(deque() for _ in LANES)

    def add(self, jobs: list[Job]) -> list[Misfit]:
        """Takes claimed jobs in; those that do not fit the model come back."""
        misfits = []
        for job in jobs:
            dims = self._shapes.dims(job)
            if isinstance(dims, str):
                misfits.append(Misfit(job, dims))
            else:
                self._lanes[job.lane].append(_Waiting(job, dims))
                self.rows += job.rows
        return misfits

    def oldest_ms(self) -> int:
        """Redis time at which the longest waiting job in hand was submitted; 0 when there is none."""
        heads = [lane[0].job.submitted_ms for lane in self._lanes if lane]
        return min(heads, default=0)

    def first_lane(self) -> int | None:
        """The highest lane in which a job waits here; None when none does."""
        return next((number for number, lane in enumerate(self._lanes) if lane), None)

    def clear(self) -> list[Job]:
        """Takes all jobs out, started ones too."""
        jobs = [waiting.job for lane in self._lanes for waiting in lane]
        for lane in self._lanes:
            lane.clear()
        self.rows = 0
        return jobs

    def drop(self, entries: set[bytes]) -> None:
        """Forgets jobs, started ones too."""
        for lane in self._lanes:
            kept = [waiting for waiting in lane if waiting.job.entry not in entries]
            self.rows -= sum(waiting.rows_left for waiting in lane) - sum(waiting.rows_left for waiting in kept)
            lane.clear()
            lane.extend(kept)

    def pack(self) -> Batch | None:
        """The next batch, or None when no job waits."""
        if not self.rows:
            return None
        self._packs += 1
        order = self._lanes[::-1] if self._packs % LOWEST_FIRST_EVERY == 0 else self._lanes
        head = next(lane[0] for lane in order if lane)
        most = self.cap(head.dims)
        if head.job.deliveries > 1:
            return self._take_alone(head, most)
        pieces: list[Piece] = []
        rows = size = 0
        for lane in order:
            rows, size = self._take_from(lane, head.dims, most, pieces, rows, size)
        self.rows -= rows
        return Batch(pieces, rows, self.bucket(rows), head.dims)

    def _take_from(
        self, lane: deque[_Waiting], dims: Dims, most: int, pieces: list[Piece], rows: int, size: int
    ) -> tuple[int, int]:
        """Takes what fits from one lane; rows and bytes of the batch so far."""
        passed: list[_Waiting] = []
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

    def _take_alone(self, waiting: _Waiting, most: int) -> Batch:
        lane = self._lanes[waiting.job.lane]
        lane.remove(waiting)
        take = min(waiting.rows_left, most)
        piece = Piece(waiting.job, waiting.start, waiting.start + take)
        if take < waiting.rows_left:
            waiting.start += take
            lane.appendleft(waiting)
        self.rows -= take
        return Batch([piece], take, self.bucket(take), waiting.dims)


class _Waiting:
    """A job in hand: its shape bucket, the first row not yet run, and whether another shape overtook it already."""

    __slots__ = ("dims", "job", "start", "was_passed")

    def __init__(self, job: Job, dims: Dims) -> None:
        self.job = job
        self.dims = dims
        self.start = 0
        self.was_passed = False

    @property
    def rows_left(self) -> int:
        return self.job.rows - self.start
