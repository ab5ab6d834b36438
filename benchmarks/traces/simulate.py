"""One slot and its engine on a clock that is a number: the real batcher, claims, pacing; a Redis of three deques.

A forward takes what the table says, spread a little; a claim costs a round trip. Nothing is decided here.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush

from benchmarks.traces.arrivals import LOW, Arrival, Waits
from benchmarks.traces.mechanisms import Loose, Mechanisms, shrink
from benchmarks.traces.result import Result
from benchmarks.traces.tables import timetable
from broker.lease import lease_of
from broker.messages import LANES, Column, Job, Signature
from broker.spec import ModelSpec, TensorSpec
from workers.batch import Batch
from workers.batcher import Batcher
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


class Slot:
    """One run of one trace, of recorded senders that wait for their answers, or of `clients` that do and think next to nothing."""

    def __init__(self, table: Mapping[int, float], how: Mechanisms, *, seed: int = 1) -> None:
        self._table = table
        self._how = how
        buckets = tuple(self._table)
        self._batcher = Batcher(SPEC, row_buckets=buckets, max_rows=buckets[-1], batch_bytes=1 << 30)
        self._batch_limits = Loose(timetable(table), buckets, low_batch_ms=how.low_batch_ms)
        self._batch_limits.how = how
        self._batcher.batch_limits = self._batch_limits
        self._pacing = Pacing(self._batcher, max_wait_ms=5.0 if how.expects else 0.0, read_ahead_max_ms=500.0)
        self._claims = Claims()
        self._lanes: tuple[deque[Job], ...] = tuple(deque() for _ in LANES)
        self._draw = random.Random(seed)
        self._now = 0.0
        self._running = [0] * len(LANES)  # rows, by the lane that began their batch
        self._gap_ms, self._newest = 1e9, -1e9
        self._number = self._in_time = self._late = self._batches = self._to_send = 0
        self._sojourns: tuple[list[float], ...] = tuple([] for _ in LANES)

    def run(
        self, trace: Sequence[Arrival] = (), *, waits: Sequence[Waits] = (), clients: int = 0, jobs: int = 2000
    ) -> Result:
        self._trace = list(trace)
        heapify(self._trace)
        self._waits = waits
        self._sent = [0] * len(waits)
        self._waited_for: dict[str, int] = {}
        for sender in range(len(waits)):
            self._answered(sender, 0.0)
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

    def _answered(self, sender: int, at_ms: float) -> None:
        """A sender has its answer, and sends its next job as long after it as it did."""
        one = self._waits[sender]
        if self._sent[sender] < len(one.gaps_ms):
            at_ms += one.gaps_ms[self._sent[sender]]
            self._sent[sender] += 1
            heappush(self._trace, Arrival(at_ms, one.lane, one.deadline_ms, one.rows, sender))

    def _arrive(self) -> None:
        """What was submitted up to now lies in Redis."""
        while self._trace and self._trace[0].at_ms <= self._now:
            one = heappop(self._trace)
            self._number += 1
            entry = b"%d" % self._number
            job = Job(
                f"c-{self._number}", one.lane, entry, lease_of(one.lane, entry), 0, one.rows, one.rows == 1, SIGNATURE, b"", 0, 60, True, 0, 1, 1, 100,
                submitted_ms=one.at_ms, deadline_ms=one.at_ms + one.deadline_ms if one.deadline_ms else 0,  # type: ignore[arg-type]
            )  # fmt: skip
            self._lanes[one.lane].append(job)
            if one.sender >= 0:
                self._waited_for[job.id] = one.sender

    def _ask(self, *, below: int | None = None, is_strict: bool = False) -> None:
        """One claim, answered a round trip later."""
        self._now += ROUND_TRIP_MS / 2
        self._arrive()
        self._claim(below=below, is_strict=is_strict)
        self._now += ROUND_TRIP_MS / 2

    def _claim(self, *, below: int | None = None, is_strict: bool = False) -> None:
        rooms = self._pacing.rooms(self._running, 0.0)
        if not self._how.fills:
            room = 2 * self._batcher.max_rows - self._batcher.rows - sum(self._running)
            rooms = (room, room, room)
        limits = self._claims.jobs_in(rooms)
        if not any(limits):
            return
        room, is_small = max(limits), max(limits) < SMALLEST_SHARED and limits[0] == limits[1] > 0
        if below is not None:
            counts: Sequence[int] = [max(1, limits[lane] // below) if lane < below else 0 for lane in range(len(LANES))]
        elif is_strict or is_small:
            counts, left = [0] * len(LANES), room
            is_apart = (is_strict and self._how.fills) or (is_small and not (limits[LOW] and self._claims.are_alike))
            if is_apart:
                counts[LOW] = min(limits[LOW], room // 2 if is_strict else room)
                left -= counts[LOW]
            for lane, waiting in enumerate(self._lanes[:LOW] if is_apart else self._lanes):
                counts[lane] = min(left, len(waiting))
                left -= counts[lane]
        else:
            counts = self._claims.shares(limits)
        for lane, count in enumerate(counts):
            came = [self._lanes[lane].popleft() for _ in range(min(count, len(self._lanes[lane])))]
            if count:
                self._claims.note_lane(lane, count, len(came))
            if came:
                self._claims.note_turn(came)
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
            shrink(batcher, self._batch_limits, self._now, batcher.max_rows)
        batch = batcher.pack()
        if batch is not None:
            pacing.began(batch, self._now / 1e3)
            self._forward(batch)

    def _expire(self) -> None:
        if self._how.expires:
            for job in self._batcher.hopeless(self._now):
                self._late += 1
                self._ended(job, self._now)

    def _ended(self, job: Job, at_ms: float) -> None:
        sender = self._waited_for.pop(job.id, None)
        if sender is not None:
            self._answered(sender, at_ms + ROUND_TRIP_MS)

    def _wait(self) -> None:
        began = self._now
        while (coming := self._batcher.coming()) is not None and not coming.is_full and self._how.wait is not None:
            left_ms = self._how.wait(coming, self._batch_limits, self._gap_ms, self._now - began)
            if left_ms <= 0:
                return
            self._now += min(LOOK_AGAIN_MS, left_ms)
            self._ask(is_strict=True)

    def _forward(self, batch: Batch) -> None:
        begins = self._now
        ends = begins + OVERHEAD_MS + self._table[batch.bucket] * self._draw.uniform(0.97, 1.06)
        self._batches += 1
        self._running[batch.lane] = batch.rows
        due_ms = self._pacing.due_ms(begins / 1e3)
        if self._how.reads_late and due_ms < ends - begins:
            self._now = begins + due_ms
        self._arrive()
        self._claim()
        self._pacing.read(self._now / 1e3)
        self._now, self._running = ends, [0] * len(LANES)
        for piece in batch.pieces:
            job = piece.job
            if piece.stop < job.rows:
                continue
            self._ended(job, ends)
            self._sojourns[job.lane].append(ends + ROUND_TRIP_MS - job.submitted_ms)
            is_late = 0 < job.deadline_ms < ends
            self._late += is_late
            self._in_time += not is_late
            self._send(ends + ROUND_TRIP_MS + 0.1 + self._draw.expovariate(1 / 0.1))
