"""How many jobs to read from which lane. Pure: sees what earlier reads brought, decides, sends nothing.

Fresh jobs are read by plain XREADGROUPs, one per lane, because a script that passes them through Lua costs Redis and the
slot three times as much per job. COUNT is fixed when the command is sent, so the room is shared out beforehand: a lane
whose last read came back full gets all there is after a reserve for the lanes above it; none gets what would exceed its
room. Returned leases, and rooms too small to share, go through the claim script. Each lane has a room and a size of jobs of
its own: one job of thousands of rows in the low lane says nothing of those above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from broker.messages import LANES, LOW, Job

Rooms: TypeAlias = tuple[int, int, int]  # per lane: rows, or the jobs that fill them
NO_ROOM: Rooms = (0, 0, 0)

CLAIM_BYTES = 2 << 20  # what one turn reads stays well under the 4 MB no command should pass
SMALLEST_SHARED = 8
# Every 8th plan starts at a lower lane, the lowest and the middle one in turns, so that none starves.
LOWER_FIRST_EVERY = 8
RESERVE = 8  # an eighth of the room for a higher lane that was empty last time
KNOWN = 64  # answers of `jobs_in` remembered
FORGOTTEN_AFTER = 64  # turns that brought nothing of a lane, and its jobs are taken for small again


class Claims:
    """What is known of the lanes' backlog, and how large jobs are."""

    def __init__(self) -> None:
        self.is_dry = False  # the last reads found all there was
        self.paused: frozenset[int] = frozenset()
        self.is_shut = False  # all lanes are paused: nothing is claimed at all
        self._is_full = [False] * len(LANES)
        self._plans = 0
        self._job_rows = [1.0] * len(LANES)  # running means
        self._job_bytes = [1.0] * len(LANES)
        self._silent = [0] * len(LANES)  # turns
        self._known: dict[Rooms, Rooms] = {}

    def pause(self, lanes: frozenset[int]) -> None:
        """These lanes, and no others, get no room from now on; what they have left is no backlog."""
        self.paused = lanes
        self.is_shut = len(lanes) == len(LANES)
        self._is_full = [is_full and lane not in lanes for lane, is_full in enumerate(self._is_full)]
        self._known.clear()

    def jobs_in(self, rooms: Rooms) -> Rooms:
        """How many jobs of each lane fill so many rows: at least one where there is room, none of a lane that is paused. Remembered
        while the sizes are what they were."""
        known = self._known.get(rooms)
        if known is not None:
            return known
        high, normal, low = (
            0 if rows <= 0 or lane in self.paused
            else max(1, int(min(rows / self._job_rows[lane], CLAIM_BYTES / self._job_bytes[lane])))
            for lane, rows in enumerate(rooms)
        )  # fmt: skip
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[rooms] = (high, normal, low)
        return high, normal, low

    def above_low(self, counts: Rooms) -> int:
        """Jobs to read of the lanes above the low one whichever they come from; 0 where that is not one number for all open ones."""
        open_ones = {count for lane, count in enumerate(counts[:LOW]) if lane not in self.paused}
        return open_ones.pop() if len(open_ones) == 1 else 0

    @property
    def are_alike(self) -> bool:
        """Whether jobs of all open lanes are of one size: then it makes no difference which come."""
        return len({round(rows) for lane, rows in enumerate(self._job_rows) if lane not in self.paused}) <= 1

    def shares(self, counts: Rooms) -> tuple[int, ...]:
        """Jobs to read per lane, in lane order: of each at most its count, together at most the largest."""
        self._plans += 1
        order = [0, 1, 2]
        if self._plans % LOWER_FIRST_EVERY == 0:
            order = [2, 1, 0] if self._plans % (2 * LOWER_FIRST_EVERY) else [1, 2, 0]
        order = [lane for lane in order if counts[lane]]
        found = [0] * len(LANES)
        left = room = max(counts)
        reserve = max(1, room // RESERVE if any(self._is_full) else room // max(1, len(order)))
        for lane in order:
            limit = min(left, counts[lane])
            found[lane] = limit if self._is_full[lane] else min(reserve, limit)
            left -= found[lane]
        if any(self._is_full):
            for lane in order:  # what a full lane of large jobs has no use for
                more = min(left, counts[lane] - found[lane])
                found[lane] += more
                left -= more
        return tuple(found)

    def note_lane(self, lane: int, asked: int, came: int) -> None:
        """What one lane's read brought."""
        self._is_full[lane] = came >= asked and lane not in self.paused  # it may be of a read before the pause

    def note_lanes(self, asked: int, jobs: list[Job]) -> None:
        """What a read of all lanes brought, `asked` of each."""
        if len(jobs) < asked:
            self._is_full = [False] * len(LANES)
            return
        for lane in range(len(LANES)):
            self.note_lane(lane, asked, sum(job.lane == lane for job in jobs))

    def note_turn(self, jobs: list[Job]) -> None:
        """What all reads of one turn brought together, in the order of their lanes."""
        if not jobs:
            return
        first, last = jobs[0].lane, jobs[-1].lane
        for lane in range(len(LANES)):
            if first == last:
                came = jobs if lane == first else []
            else:
                came = [job for job in jobs if job.lane == lane]
            if came:
                self._silent[lane] = 0
                self._learn(
                    lane, sum([job.rows for job in came]) / len(came), sum([job.size for job in came]) / len(came)
                )
            else:
                self._silent[lane] += 1
                if self._silent[lane] == FORGOTTEN_AFTER:
                    self._job_rows[lane] = self._job_bytes[lane] = 1.0
                    self._known.clear()

    def _learn(self, lane: int, rows: float, size: float) -> None:
        if self._job_rows[lane] != rows or abs(self._job_bytes[lane] - size) > 1.0:
            self._job_rows[lane] += 0.5 * (rows - self._job_rows[lane])
            self._job_bytes[lane] += 0.5 * (size - self._job_bytes[lane])
            self._known.clear()

    def note_dry(self, *, is_dry: bool) -> None:
        """Whether anything can be left in the lanes."""
        self.is_dry = is_dry
        if is_dry:
            self._is_full = [False] * len(LANES)

    @property
    def has_backlog(self) -> bool:
        """Whether a lane's last read came back full."""
        return any(self._is_full)

    def has_backlog_above(self, lane: int) -> bool:
        """As `has_backlog`, of higher lanes."""
        return any(self._is_full[:lane])

    def has_backlog_for(self, rooms: Sequence[int]) -> bool:
        """As `has_backlog`, of lanes there is room for: asked again for what it may not read, a slot would only poll."""
        return self.has_backlog and any(full and room > 0 for full, room in zip(self._is_full, rooms, strict=True))
