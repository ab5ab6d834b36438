"""How many jobs to read from which lane. Pure: sees what earlier reads brought, decides, sends nothing.

Fresh jobs are read by plain XREADGROUPs, one per lane, because a script that passes them through Lua costs Redis and the
slot three times as much per job. COUNT is fixed when the command is sent, so the room is shared out beforehand: a lane
whose last read came back full gets all there is after a reserve for the lanes above it; none gets what would exceed the
room. Returned leases, and rooms too small to share, go through the claim script.
"""

from __future__ import annotations

from broker.messages import LANES, LOW, Job

CLAIM_BYTES = 2 << 20  # what one turn reads stays well under the 4 MB no command should pass
SMALLEST_SHARED = 8
# Every 8th plan starts at a lower lane, the lowest and the middle one in turns, so that none starves.
LOWER_FIRST_EVERY = 8
RESERVE = 8  # an eighth of the room for a higher lane that was empty last time


class Claims:
    """What is known of the lanes' backlog, and how large jobs are."""

    def __init__(self) -> None:
        self.is_dry = False  # the last reads found all there was
        self.paused: frozenset[int] = frozenset()
        self.is_shut = False  # all lanes are paused: nothing is claimed at all
        self._is_full = [False] * len(LANES)
        self._plans = 0
        self._job_rows = self._job_bytes = 1.0  # running means

    def pause(self, lanes: frozenset[int]) -> None:
        """These lanes, and no others, get no room from now on; what they have left is no backlog."""
        self.paused = lanes
        self.is_shut = len(lanes) == len(LANES)
        self._is_full = [is_full and lane not in lanes for lane, is_full in enumerate(self._is_full)]

    def jobs_in(self, rows: int) -> int:
        """How many jobs fill `rows` rows, at least one."""
        return max(1, int(min(rows / self._job_rows, CLAIM_BYTES / self._job_bytes)))

    def shares(self, room: int, low_room: int | None = None) -> tuple[int, ...]:
        """Jobs to read per lane, in lane order; together at most `room`, and of the low lane at most `low_room`."""
        self._plans += 1
        order = [0, 1, 2]
        if self._plans % LOWER_FIRST_EVERY == 0:
            order = [2, 1, 0] if self._plans % (2 * LOWER_FIRST_EVERY) else [1, 2, 0]
        if self.paused:
            order = [lane for lane in order if lane not in self.paused]
        counts = [0] * len(LANES)
        reserve = room // RESERVE if any(self._is_full) else room // max(1, len(order))
        left = room
        for lane in order:
            limit = left if lane < LOW or low_room is None else min(left, max(0, low_room))
            counts[lane] = limit if self._is_full[lane] else min(reserve, limit)
            left -= counts[lane]
        return tuple(counts)

    def note_lane(self, lane: int, asked: int, came: int) -> None:
        """What one lane's read brought."""
        self._is_full[lane] = came >= asked and lane not in self.paused  # it may be of a read before the pause

    def note_turn(self, jobs: list[Job]) -> None:
        """What all reads of one turn brought together."""
        if jobs:
            self._job_rows += 0.5 * (sum(job.rows for job in jobs) / len(jobs) - self._job_rows)
            self._job_bytes += 0.5 * (sum(job.size for job in jobs) / len(jobs) - self._job_bytes)

    def note_dry(self, *, is_dry: bool) -> None:
        """Whether anything can be left in the lanes."""
        self.is_dry = is_dry
        if is_dry:
            self._is_full = [False] * len(LANES)

    @property
    def has_backlog(self) -> bool:
        """Whether a lane's last read came back full."""
        return any(self._is_full)

    def has_backlog_for(self, low_room: int) -> bool:
        """As `has_backlog`, of lanes there is room for: asked again for what it may not read, a slot would only poll."""
        return self.has_backlog and (low_room > 0 or any(self._is_full[:LOW]))
