"""When the slot asks Redis for more, and when it lets a free engine wait. Pure: takes the time, sends nothing.

A quick forward is over before a question would be answered, so jobs are read ahead at once and run as they lie. A long one
leaves time, and what is read late can still be shared out better: jobs are read ahead shortly before its end, so that an idle
slot gets them instead and a higher lane comes first. A backlog is read at once all the same, but for very long forwards.

Before a long batch begins that is not full, or not of the highest lane, Redis is asked once more what came meanwhile. A round
trip is nothing beside such a batch; what joins it is spared one.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from broker.messages import HIGH, LANES, LOW, Job
from broker.timetable import Dims
from workers.batch import Batch, Coming
from workers.batcher import Batcher
from workers.claims import NO_ROOM, Rooms
from workers.waiting import Waiting

QUICK_MS = 2.0  # two such batches in hand delay nobody by much
LONG_MS = 5.0  # a round trip more costs a twentieth of this at most, on one host
# Behind a shorter forward a backlog is read at once: where more than a batch waits no slot is idle, and to claim hundreds of jobs
# takes longer than a lead.
SHORT_MS = 100.0
LEAD_MS, LEAD_SHARE = 2.0, 0.2  # how long before a forward's end jobs are read ahead: to claim, decode and copy them
LOOK_S, ALONE_LOOK_S = 0.002, 0.01  # between looks for higher lanes within one long job of quick batches
IN_HAND = 2  # batches a slot may hold, running ones included


class Look(msgspec.Struct, frozen=True):
    """Redis is to be asked before the engine begins: of lanes above `below`, or of all lanes where that is None."""

    below: int | None


class Pacing:
    """Of one slot. Times are seconds of its clock, `_ms` Redis' time or a duration."""

    def __init__(self, batcher: Batcher, *, max_wait_ms: float, read_ahead_max_ms: float) -> None:
        self.look: Look | None = None  # wanted now; who sends it says `looked`
        self.is_soon = False  # what `is_held` said last: a full batch is held, and only until Redis has answered
        self._batcher = batcher
        self._waiting = Waiting(max_wait_ms)
        self._read_ahead_max_ms = read_ahead_max_ms
        self._rows = self._low_rows = batcher.max_rows  # of the batches to come, as far as is known; of low ones
        self.is_running = False  # as far as was told: what began may have ended
        self._ends_at = 0.0  # when the engine will have done what it has
        self._lead_s = 0.0
        self._batch_ms = 0.0
        self._saved_ms = 0.0  # what one forward more than needed costs
        self._known: dict[tuple[Dims, int], tuple[float, float, int, int]] = {}
        self._known_under = -1
        self._has_looked = self._has_read = False
        self._read_at = 0.0
        self.lane = HIGH  # of the batch that began last
        self._is_stale = False  # jobs in hand were claimed while the engine worked

    # --- what happens -----------------------------------------------------------------------------

    def took(self, jobs: list[Job]) -> None:
        """Jobs were claimed, in the order of their lanes."""
        if not self._waiting.is_open:
            return
        if jobs[0].lane == jobs[-1].lane:
            self._waiting.came(jobs)
            return
        for lane in {job.lane for job in jobs}:
            self._waiting.came([job for job in jobs if job.lane == lane])

    def began(self, batch: Batch, now: float) -> None:
        """A batch goes to the engine, which may have another one still."""
        ms, self._saved_ms, self._rows, self._low_rows = self._prospect(batch)
        self._batch_ms = ms
        self._ends_at = max(now, self._ends_at if self.is_running else 0.0) + ms / 1e3
        self._lead_s = max(LEAD_MS, LEAD_SHARE * ms) / 1e3
        self.is_running = True
        self.lane = batch.lane
        self._has_read = self._has_looked = False

    def freed(self, now_ms: float) -> None:
        """The engine has nothing left; may be said again while it waits."""
        if self.is_running:
            self.is_running = False
            self._is_stale = self._batcher.rows > 0
            self._waiting.freed(now_ms, self._saved_ms)

    def read(self, now: float) -> None:
        """Jobs were asked for, or nothing could be."""
        self._has_read, self._read_at = True, now

    def looked(self) -> None:
        """The look was sent, or could not be."""
        self.look = None
        self._has_looked = True

    def _prospect(self, batch: Batch) -> tuple[float, float, int, int]:
        """How long it takes, what one row more in it would save, the rows of the batches to come and of low ones. Remembered until
        T is looked at again, since batches repeat."""
        batch_limits = self._batcher.batch_limits
        if self._known_under != batch_limits.edition:
            self._known_under = batch_limits.edition
            self._known.clear()
        key = (batch.dims, batch.rows)
        known = self._known.get(key)
        if known is None:
            ms = batch_limits.typical_ms(batch.dims, batch.forward_rows) * batch.forwards
            saved_ms = batch_limits.saved_ms(batch.dims, batch.rows)
            rows = self._of_a_batch(batch.dims, HIGH), self._of_a_batch(batch.dims, LOW)
            known = self._known[key] = (ms, saved_ms, *rows)
        return known

    def _of_a_batch(self, dims: Dims, lane: int) -> int:
        """Rows to have in hand for one batch: as many as it will have, unless such batches are over at once."""
        batch_limits = self._batcher.batch_limits
        planned = batch_limits.planned(dims, lane)
        return planned if batch_limits.typical_ms(dims, planned) >= QUICK_MS else self._batcher.max_rows

    # --- what follows -----------------------------------------------------------------------------

    def is_held(self, now_ms: float, *, is_asking: bool) -> bool:
        """Whether a free engine waits though there are jobs in hand. `is_asking`: an answer of Redis is under way."""
        self.look, self.is_soon = None, False
        coming = self._batcher.coming()
        if coming is None:
            return False
        may_look = coming.ms >= LONG_MS and self._is_stale and (is_asking or not self._has_looked)
        if may_look and (below := self._open_below(coming)) != 0:
            self.look = None if is_asking else Look(below)
            self.is_soon = coming.is_full
            return True
        return self.patience_ms(now_ms) > 0

    def _open_below(self, coming: Coming) -> int | None:
        """As `Look.below`: whose jobs would still join the batch. Its own lane's, where lower ones fill it up and more would take no longer."""
        if not coming.is_full:
            return None
        rows = self._batcher.rows_in(coming.lane)
        is_shared = rows < coming.rows <= self._batcher.batch_limits.company(coming.dims, rows)
        return coming.lane + is_shared

    def patience_ms(self, now_ms: float) -> float:
        """How much longer jobs in hand wait for company while the engine is free."""
        if self.is_running or not self._waiting.is_open:
            return 0.0
        coming = self._batcher.coming()
        if coming is None or coming.is_full:
            return 0.0
        left_ms = self._waiting.left_ms(
            now_ms, coming.rows, self._batcher.batch_limits.saved_ms(coming.dims, coming.rows)
        )
        return min(left_ms, self._batcher.tightest_ms() - now_ms - coming.ms) if left_ms else 0.0

    def batch_rows(self) -> int:
        """Rows to ask for at once when there is nothing in hand: a batch, so that a burst is not split over idle slots."""
        return self._batcher.max_rows if self._batcher.is_full_due else self._rows

    def room_rows(self, running: Sequence[int], forward_ms: float, fetching: Sequence[int] = NO_ROOM) -> int:
        """Rows that may still be claimed whatever their lane; the rest as in `rooms`."""
        batches = 1 if forward_ms > self._read_ahead_max_ms else IN_HAND
        room = batches * self.batch_rows() - self._batcher.rows - sum(running) - sum(fetching)
        if room > 0:
            return room
        coming = self._batcher.coming()
        return self._behind_one(coming.lane, fetching) if coming is not None else 0

    def rooms(self, running: Sequence[int], forward_ms: float, fetching: Sequence[int] = NO_ROOM) -> Rooms:
        """Rows of each lane that may still be claimed: a slot holds two batches at most, and one if batches are very slow. What it
        holds of lower lanes takes no room, it yields; else one job of a thousand batches would keep all others out to its end. Behind
        long jobs of higher lanes a lane has one batch in hand, or it would never have the turn that is due to it.

        `running` are rows of batches by the lanes that began them; those `fetching` were claimed, and their bodies are on their way.
        """
        most = (1 if forward_ms > self._read_ahead_max_ms else IN_HAND) * self.batch_rows()
        batcher, held, found = self._batcher, 0, []
        if not (batcher.rows or any(running) or any(fetching)):
            return most, most, min(most, IN_HAND * self._low_rows)
        for lane in range(len(LANES)):
            above = held
            held += batcher.rows_in(lane) + running[lane] + fetching[lane]
            room = most - held
            if lane == LOW:  # two batches as that lane may have them
                low = self._low_rows
                room = min(room, IN_HAND * low - batcher.rows_in(LOW) - fetching[LOW] - min(sum(running), low))
            if room <= 0 and above > most and not (batcher.rows_in(lane) or fetching[lane]):
                room = self._low_rows if lane == LOW else self.batch_rows()
            found.append(room if room > 0 else self._behind_one(lane, fetching))
        high, normal, low = found
        return high, normal, low

    def _behind_one(self, lane: int, fetching: Sequence[int]) -> int:
        """Room for one job more behind a single one of several batches: to claim it and fetch its body takes longer than the last
        two of those, and the engine would stand idle."""
        coming = self._batcher.coming()
        if (
            fetching[lane]
            or coming is None
            or coming.lane != lane
            or self._batcher.jobs != 1
            or self._batcher.rows <= coming.rows
        ):
            return 0
        left_ms = coming.ms * self._batcher.rows / coming.rows
        return 1 if 0 < left_ms <= SHORT_MS else 0

    def may_ask(self, now: float, *, has_backlog: bool) -> bool:
        """Whether it is time to read ahead while the engine works."""
        if not self.is_running or self._batch_ms < LONG_MS or (has_backlog and self._batch_ms <= SHORT_MS):
            return True
        return now >= self._ends_at - self._lead_s and (has_backlog or not self._has_read)

    def must_ask(self, now: float, *, is_alone: bool = True) -> bool:
        """Whether to read ahead though the last read found nothing left: time has passed since. `is_alone`: of the lanes above the
        one that runs nothing was heard for long."""
        if not self.is_running or self._has_read:
            return False
        if self._batch_ms >= LONG_MS:
            return self.may_ask(now, has_backlog=False)
        # Quick batches ask as they are settled, but those of a long job are not before its end.
        return self.lane > HIGH and now - self._read_at >= (ALONE_LOOK_S if is_alone else LOOK_S)

    def due_ms(self, now: float) -> float:
        """How long until it is time to read ahead; endless when it is, or was."""
        left_ms = (self._ends_at - self._lead_s - now) * 1e3
        is_coming = self.is_running and self._batch_ms >= LONG_MS and not self._has_read and left_ms > 0
        return left_ms if is_coming else float("inf")
