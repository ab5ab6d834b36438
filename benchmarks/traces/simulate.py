"""One slot and its engine on a clock that is a number: the real batcher, claims, pacing; a Redis of three deques.

A forward takes what the table says, spread a little; a claim costs a round trip. Nothing is decided here.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from statistics import fmean

import msgspec

from benchmarks.traces.arrivals import LOW, NORMAL, Arrival
from benchmarks.traces.mechanisms import Loose, Mechanisms, shrink
from benchmarks.traces.tables import TABLES, timetable
from broker.messages import LANES, Column, Job, Signature
from broker.spec import ModelSpec, TensorSpec
from workers.batcher import Batch, Batcher
from workers.claims import SMALLEST_SHARED, Claims
from workers.pacing import Pacing

ROUND_TRIP_MS = 0.25
OVERHEAD_MS = 0.12  # of one forward, in slot and engine
LOOK_AGAIN_MS = 1.0
SIGNATURE = Signature((Column("x", "float32", (1,), 4),), 4)
SPEC = ModelSpec(
    name="m", version="1", takes="tensors", inputs=(TensorSpec("x", "float32", (1,)),),
    outputs=(TensorSpec("y", "float32", (1,)),), max_rows=256,
)  # fmt: skip


class Result(msgspec.Struct, frozen=True):
    """Sojourn times in ms by lane, of the jobs that were run; jobs that ended in time, and late or unrun."""

    sojourns: tuple[list[float], ...]
    in_time: int
    late: int
    batches: int
    ended_ms: float

    def mean(self, lane: int = NORMAL) -> float:
        return fmean(self.sojourns[lane]) if self.sojourns[lane] else 0.0

    def p99(self, lane: int = NORMAL) -> float:
        ordered = sorted(self.sojourns[lane])
        return ordered[int(0.99 * len(ordered))] if ordered else 0.0

    def per_s(self, lane: int = NORMAL) -> float:
        return len(self.sojourns[lane]) / self.ended_ms * 1e3

    @property
    def kept(self) -> float:
        """Share of the jobs that ended in time."""
        return self.in_time / max(1, self.in_time + self.late)


class Slot:
    """One run of one trace, or of `clients` that each send their next job when they have the last one's result."""

    def __init__(self, table: str, how: Mechanisms, *, seed: int = 1) -> None:
        self._table = TABLES[table]
        self._how = how
        buckets = tuple(self._table)
        self._batcher = Batcher(SPEC, row_buckets=buckets, max_rows=buckets[-1], batch_bytes=1 << 30)
        self._allowance = Loose(timetable(table), buckets, low_batch_ms=how.low_batch_ms)
        self._allowance.how = how
        self._batcher.allowance = self._allowance
        self._pacing = Pacing(self._batcher, max_wait_ms=5.0 if how.expects else 0.0, read_ahead_max_ms=500.0)
        self._claims = Claims()
        self._lanes: tuple[deque[Job], ...] = tuple(deque() for _ in LANES)
        self._draw = random.Random(seed)
        self._now = 0.0
        self._running = 0
        self._gap_ms, self._newest = 1e9, -1e9
        self._number = self._in_time = self._late = self._batches = self._to_send = 0
        self._sojourns: tuple[list[float], ...] = tuple([] for _ in LANES)

    def run(self, trace: Sequence[Arrival] = (), *, clients: int = 0, jobs: int = 2000) -> Result:
        self._trace = list(trace)
        heapify(self._trace)
        self._to_send = jobs if clients else 0
        for _ in range(clients):
            self._send(self._draw.uniform(0, 1))
        while self._trace or self._batcher.rows or any(self._lanes):
            self._turn()
        return Result(self._sojourns, self._in_time, self._late, self._batches, self._now)

    # --- what comes -------------------------------------------------------------------------------

    def _send(self, at_ms: float) -> None:
        if self._to_send > 0:
            self._to_send -= 1
            heappush(self._trace, Arrival(at_ms))

    def _arrive(self) -> None:
        """What was submitted up to now lies in Redis."""
        while self._trace and self._trace[0].at_ms <= self._now:
            one = heappop(self._trace)
            self._number += 1
            job = Job(
                f"c-{self._number}", one.lane, b"%d" % self._number, 0, 1, True, SIGNATURE, b"", 0, 60, True, 0, 1, 1, 100,
                submitted_ms=one.at_ms, deadline_ms=one.at_ms + one.deadline_ms if one.deadline_ms else 0,  # type: ignore[arg-type]
            )  # fmt: skip
            self._lanes[one.lane].append(job)

    def _ask(self, *, below: int | None = None, is_strict: bool = False) -> None:
        """One claim, answered a round trip later."""
        self._now += ROUND_TRIP_MS / 2
        self._arrive()
        self._claim(below=below, is_strict=is_strict)
        self._now += ROUND_TRIP_MS / 2

    def _claim(self, *, below: int | None = None, is_strict: bool = False) -> None:
        room = self._pacing.room_rows(self._running, 0.0)
        low_room = self._pacing.low_room_rows(self._running)
        if not self._how.fills:
            room = 2 * self._batcher.max_rows - self._batcher.rows - self._running
        if room <= 0:
            return
        if below is not None:
            counts: Sequence[int] = [max(1, room // below) if lane < below else 0 for lane in range(len(LANES))]
        elif is_strict or room < SMALLEST_SHARED:
            counts, left = [0] * len(LANES), room
            if is_strict and self._how.fills:
                counts[LOW] = max(0, min(low_room, room // 2))
                left -= counts[LOW]
            for lane, waiting in enumerate(self._lanes[:LOW] if is_strict and self._how.fills else self._lanes):
                counts[lane] = min(left, len(waiting))
                left -= counts[lane]
        else:
            counts = self._claims.shares(room, low_room if self._how.fills else None)
        for lane, count in enumerate(counts):
            came = [self._lanes[lane].popleft() for _ in range(min(count, len(self._lanes[lane])))]
            if count:
                self._claims.note_lane(lane, count, len(came))
            if came:
                self._batcher.add(came)
                self._pacing.took(came)
                self._note_gap(came)

    def _note_gap(self, came: Sequence[Job]) -> None:
        newest = came[-1].submitted_ms
        if newest > self._newest:
            self._gap_ms += min(1.0, len(came) / 16) * (min((newest - self._newest) / len(came), 1e4) - self._gap_ms)
            self._newest = newest

    # --- what the slot does -----------------------------------------------------------------------

    def _turn(self) -> None:
        """From a free engine to the next free engine."""
        batcher, pacing, how = self._batcher, self._pacing, self._how
        pacing.freed(self._now)
        self._expire()
        if not batcher.rows:
            self._arrive()
            if not any(self._lanes):
                if not self._trace:
                    return
                self._now = max(self._now, self._trace[0].at_ms)
            self._ask(is_strict=True)
        while pacing.is_held(self._now, is_asking=False) and (pacing.look or pacing.patience_ms(self._now) > 0):
            if pacing.look is not None:
                below = pacing.look.below
                pacing.looked()
                if how.looks:
                    self._ask(below=below, is_strict=True)
            else:
                self._now += min(LOOK_AGAIN_MS, pacing.patience_ms(self._now))
                self._ask(is_strict=True)
        if how.wait is not None:
            self._wait()
        self._expire()
        if how.shrinks:
            shrink(batcher, self._allowance, self._now, batcher.max_rows)
        batch = batcher.pack()
        if batch is not None:
            pacing.began(batch, self._now / 1e3)
            self._forward(batch)

    def _expire(self) -> None:
        if self._how.expires:
            self._late += len(self._batcher.hopeless(self._now))

    def _wait(self) -> None:
        began = self._now
        while (coming := self._batcher.coming()) is not None and not coming.is_full and self._how.wait is not None:
            left_ms = self._how.wait(coming, self._allowance, self._gap_ms, self._now - began)
            if left_ms <= 0:
                return
            self._now += min(LOOK_AGAIN_MS, left_ms)
            self._ask(is_strict=True)

    def _forward(self, batch: Batch) -> None:
        begins = self._now
        ends = begins + OVERHEAD_MS + self._table[batch.bucket] * self._draw.uniform(0.97, 1.06)
        self._batches += 1
        self._running = batch.rows
        due_ms = self._pacing.due_ms(begins / 1e3)
        if self._how.reads_late and due_ms < ends - begins:
            self._now = begins + due_ms
        self._arrive()
        self._claim()
        self._pacing.read()
        self._now, self._running = ends, 0
        for piece in batch.pieces:
            job = piece.job
            self._sojourns[job.lane].append(ends + ROUND_TRIP_MS - job.submitted_ms)
            is_late = 0 < job.deadline_ms < ends
            self._late += is_late
            self._in_time += not is_late
            self._send(ends + ROUND_TRIP_MS + 0.1 + self._draw.expovariate(1 / 0.1))
