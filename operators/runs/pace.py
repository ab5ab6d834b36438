"""How much of a run may be under way at once, how fast, and for how long. Pure: takes a clock's word, gives numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from broker.runs import PRIORITIES
from broker.spec import Limits, ModelSpec

JOB_BYTES = (
    2 << 20
)  # of one job, at most: it costs a claim and a settle however large it is, and the slot splits it into batches
CHUNK_BYTES, CHUNK_ROWS = 32 << 20, 1 << 17  # of one part, at most: each costs two waits for the disk
JOB_S, PART_S = 0.5, 1.0  # what a job and a part should take: a kill costs about a part
MOST_PARTS = 5_000
FAST_BYTES_PER_S = (
    4 << 20
)  # a model this fast was measured too slow, by one batch and its way: its parts are as large as may be
QUEUE_SHARE = 4  # of a queue's limits a run takes a fourth at most: others must be able to submit
# Submitted and not answered: for each slot one that runs and some that wait, and where that is little, this. More would only make
# what is ahead of others longer, and bodies leave the cache before they are read; so three parts are for where an answer is late.
WINDOW_PARTS, WINDOW_BYTES, SLOT_JOBS = 3, 16 << 20, 4
RATE_OVER_S = 15.0


class Plan(msgspec.Struct, frozen=True):
    """Rows of a part and of a job. Fixed for a run once it began: a part's number says which rows it holds. `row_bytes` is a guess."""

    chunk_rows: int
    job_rows: int
    row_bytes: int


def plan(
    spec: ModelSpec, limits: Limits, row_bytes: int, rows_per_s: float, *, rows_total: int, job_rows: int = 0
) -> Plan:
    """For a model that was seen to do so many rows a second. `job_rows`: the user's wish, 0 none."""
    size = max(1, row_bytes)
    in_job = job_rows or max(1, min(JOB_BYTES, limits.payload_limit_bytes // 2) // size)
    if not job_rows:
        in_job = max(1, min(in_job, round(rows_per_s * JOB_S)))
        in_job -= in_job % spec.max_rows if in_job > spec.max_rows else 0  # whole batches
    most = max(1, min(CHUNK_ROWS, CHUNK_BYTES // size))
    timed = most if rows_per_s * size >= FAST_BYTES_PER_S else round(rows_per_s * PART_S)
    chunk = max(min(most, timed), rows_total // MOST_PARTS, 1)
    if chunk > in_job:
        chunk -= chunk % in_job  # whole jobs
    return Plan(chunk, min(in_job, chunk), size)


class Window:
    """What is submitted and not answered: so much that no slot waits for the next job, bounded in bytes and by a share of the queue's
    own limits. Once full it opens again when half of it came back, so that jobs travel several at a time, or when slots want more."""

    def __init__(self, limits: Limits, plan: Plan, *, window_bytes: int) -> None:
        chunk_bytes, job_bytes = plan.chunk_rows * plan.row_bytes, plan.job_rows * plan.row_bytes
        self._limit_bytes = min(window_bytes, limits.max_bytes // QUEUE_SHARE)
        self._parts_bytes = WINDOW_PARTS * chunk_bytes
        # Jobs that are small because a user wishes it, or of one row each, make batches as large as others.
        self._slot_bytes = SLOT_JOBS * max(job_bytes, min(JOB_BYTES, chunk_bytes // 2))
        self._most_jobs = max(1, limits.max_jobs // QUEUE_SHARE)
        self.jobs = self.bytes = 0
        self.is_open = True
        self.note_slots(1)

    def note_slots(self, slots: int) -> None:
        """So many slots work for the model now; told each second, which an answer that was late may not be by then."""
        self._slots = slots
        self._bound(min(WINDOW_BYTES, self._parts_bytes))

    def widen(self) -> None:
        """The oldest answer is late. Those behind it are taken after it, and may have come: their slots are to go on."""
        self._bound(self._parts_bytes)

    def _bound(self, least_bytes: int) -> None:
        self._most_bytes = min(self._limit_bytes, max(least_bytes, self._slots * self._slot_bytes))
        self.is_open |= self._is_low

    @property
    def is_gathering(self) -> bool:
        """Whether it is shut, and the slots have enough to do for a while."""
        return not (self.is_open or self._is_low)

    @property
    def _is_low(self) -> bool:
        """Whether half of it came back, or no slot has more than half of what it is to have: the limits may be less than that."""
        few_bytes = max(self._most_bytes, self._slots * self._slot_bytes) // 2
        is_few = 2 * self.jobs <= SLOT_JOBS * self._slots
        return is_few or (self.bytes <= few_bytes and 2 * self.jobs <= self._most_jobs)

    def has_room(self, size: int) -> bool:
        """Whether a job of so many bytes may be submitted; one always may."""
        if not self.is_open:
            return False
        # Rows may be much larger than those that the plan was made by.
        most_bytes = self._limit_bytes if self.jobs < SLOT_JOBS * self._slots else self._most_bytes
        self.is_open = self.jobs == 0 or (self.bytes + size <= most_bytes and self.jobs < self._most_jobs)
        return self.is_open

    def take(self, size: int) -> None:
        self.jobs += 1
        self.bytes += size

    def give(self, size: int) -> None:
        self.jobs -= 1
        self.bytes -= size
        self.is_open |= self._is_low


class Throttle:
    """A run's own rate: rows a second, 0 none. What was not used is kept for one second."""

    def __init__(self, rows_per_s: float) -> None:
        self._rate = rows_per_s
        self._at: float | None = None
        self._left = 0.0

    def wait_s(self, now: float) -> float:
        """How long nothing more may be submitted."""
        if not self._rate:
            return 0.0
        if self._at is not None:
            self._left = min(self._rate, self._left + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, -self._left / self._rate)

    def take(self, rows: int) -> None:
        self._left -= rows


class Speed:
    """Rows a second over the last seconds, from counts that only grow."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def saw(self, rows: int, now: float) -> float:
        """The speed, with this count."""
        self._seen.append((now, rows))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_OVER_S:
            self._seen.popleft()
        since, before = self._seen[0]
        return (rows - before) / (now - since) if now > since else 0.0


def must_yield(mine: str, waiting: Sequence[str], *, worked_s: float, slice_s: float) -> bool:
    """Whether a run lets others go on: those of higher priority soon, those of its own after its slice, lower ones never."""
    ranks = [PRIORITIES.index(one) for one in waiting if one in PRIORITIES]
    own = PRIORITIES.index(mine) if mine in PRIORITIES else 0
    if any(rank < own for rank in ranks):
        return worked_s >= min(1.0, slice_s)
    return own in ranks and worked_s >= slice_s
