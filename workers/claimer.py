"""Sends the slot's claims and reads their answers: plain reads ahead while busy, a blocked read while idle, the claim script now
and then for returned leases and Redis' time. `claims` decides how many from which lane.

Commands and handlers only; the wire, losses and what becomes of the jobs are `leases`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from broker.claimed import Claimed
from broker.messages import LOW, Job
from broker.queue import Queue
from workers.claims import SMALLEST_SHARED, Claims, Rooms
from workers.pacing import Look
from workers.wire import Pair

LOOK_EVERY_S = 0.25


class GiveBack(Protocol):
    """Returns leases, with so many crash marks."""

    def __call__(self, jobs: list[Job], *, marks: int) -> None: ...


class Claimer:
    """At most one claim is under way at a time. `take` gets what came, `is_refused` looks at error replies."""

    def __init__(
        self,
        *,
        queue: Queue,
        take: Callable[[Claimed], None],
        give_back: GiveBack,
        set_time: Callable[[int], None],
        is_refused: Callable[[Any], bool],
        clock: Callable[[], float],
    ) -> None:
        """`set_time` gets Redis' time in ms with each answer that carries it."""
        self.claims = Claims()
        self.is_claiming = self.is_blocked = False
        self.is_topping_up = False  # a blocked read came back full: the rest is asked for before the engine begins
        self._queue = queue
        self._take = take
        self._give_back = give_back
        self._set_time = set_time
        self._is_refused = is_refused
        self._clock = clock
        self._look_at = 0.0  # when to look for returned leases again

    def pause(self, lanes: frozenset[int]) -> None:
        """Claims from these lanes no more, and from all others. A blocked read that is out is the caller's to end."""
        self.claims.pause(lanes)
        self._queue.pause(lanes)
        self.claims.note_dry(is_dry=False)  # of lanes that are open again nothing is known

    def forget(self) -> None:
        """After a loss: no answer will come, and nothing is known of the lanes."""
        self.is_claiming = self.is_blocked = self.is_topping_up = False
        self.claims.note_dry(is_dry=False)

    def pairs(
        self,
        rooms: Rooms,
        block_ms: int,
        *,
        is_busy: bool,
        is_settling: bool,
        is_quiet: bool,
        batch_rows: int,
        is_due: bool = False,
        look: Look | None = None,
    ) -> list[Pair]:
        """`rooms` are rows of each lane. While busy: plain reads ahead, if there is a backlog or a round trip anyway, or it
        `is_due`. Idle: the script now and then, for returned leases and Redis' time; else a read that blocks until jobs come, a
        batch of them. Before a long batch: the `look`."""
        claims = self.claims
        counts = claims.jobs_in(rooms)
        if claims.is_shut or not any(counts):
            return []
        now = self._clock()
        if look is not None and look.below is not None:
            above = [(lane, max(1, counts[lane] // look.below)) for lane in range(look.below) if counts[lane]]
            self.is_claiming = bool(above)
            return self._reads(above)
        if look is not None or (not is_busy and block_ms <= 0):  # jobs in hand wait for company
            self.is_claiming = True
            # What fits of the low lane, and no more, or it would keep higher ones out.
            low = min(counts[LOW], max(counts) // 2) if any(counts[:LOW]) else counts[LOW]
            return self._above_and_low(counts, low)
        if not is_busy and now < self._look_at and not claims.has_backlog:
            if is_settling or is_quiet:
                self.is_blocked = True
                # A whole batch, so that a burst goes to one idle slot. COUNT is per stream: what more than the room comes goes back.
                asked = self._batch(batch_rows)
                return [(self._queue.block(asked, block_ms), partial(self._blocked, asked, max(counts)))]
            return []
        is_known = claims.is_dry or (claims.has_backlog and not claims.has_backlog_for(rooms))
        if is_busy and is_known and not (is_settling or is_due):
            return []
        self.is_claiming = True  # whatever is sent from here on, its last answer ends that
        if not is_busy and not claims.has_backlog:
            self._look_at = now + LOOK_EVERY_S
            # A batch, as a blocked read asks for; a second one may be run sooner by another idle slot.
            return [(self._queue.claim(min(max(counts), self._batch(batch_rows))), self._claimed)]
        high, normal, low = counts
        if max(counts) < SMALLEST_SHARED and claims.above_low(counts):
            if low and claims.are_alike:
                self._look_at = now + LOOK_EVERY_S
                return [(self._queue.claim(max(counts)), self._claimed)]
            return self._above_and_low(counts, low)
        pairs: list[Pair] = []
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            returned = max(1, max(counts) // 8)
            pairs.append((self._queue.reclaim(returned), self._reclaimed))
            high, normal, low = (max(0, min(count, max(counts) - returned)) for count in counts)
            counts = (high, normal, low) if high or normal or low else counts
        return pairs + self._reads([(lane, count) for lane, count in enumerate(claims.shares(counts)) if count])

    def _batch(self, rows: int) -> int:
        """Jobs that are no more than so many rows, whichever lane they come from."""
        return min(filter(None, self.claims.jobs_in((rows, rows, rows))))

    def _above_and_low(self, counts: Rooms, low: int) -> list[Pair]:
        """So many of the low lane; those above it by the script where one count does for all of them, else by a read each."""
        pairs: list[Pair] = [(self._queue.read(LOW, low), partial(self._read_low, low))] if low else []
        if room := self.claims.above_low(counts):
            self._look_at = self._clock() + LOOK_EVERY_S
            return [*pairs, (self._queue.claim(max(1, room - low), above_low=True), self._looked)]
        shares = [(lane, count) for lane, count in enumerate(counts) if count and (lane < LOW or low)]
        return self._reads([(lane, min(count, low) if lane == LOW else count) for lane, count in shares])

    def _reads(self, shares: list[tuple[int, int]]) -> list[Pair]:
        """Plain reads of (lane, count), taken together."""
        fresh: list[Claimed] = []
        return [
            (self._queue.read(lane, count), partial(self._read, lane, count, fresh, len(shares)))
            for lane, count in shares
        ]

    def _claimed(self, reply: Any) -> None:
        self.is_claiming = self.is_topping_up = False
        claimed = self._heard(reply)
        if claimed is not None:
            self.claims.note_dry(is_dry=not claimed.jobs)
            self._take(claimed)

    def _looked(self, reply: Any) -> None:
        """As `_claimed`, but it left the low lane out: what is known of that stays."""
        self.is_claiming = self.is_topping_up = False
        claimed = self._heard(reply)
        if claimed is not None:
            self.claims.note_dry(is_dry=not claimed.jobs and not self.claims.has_backlog)
            self._take(claimed)

    def _reclaimed(self, reply: Any) -> None:
        claimed = self._heard(reply)
        if claimed is not None:
            self._take(claimed)

    def _heard(self, reply: Any) -> Claimed | None:
        if self._is_refused(reply):
            return None
        claimed = self._queue.read_claim(reply)
        self._set_time(claimed.now_ms)
        return claimed

    def _read(self, lane: int, asked: int, fresh: list[Claimed], reads: int, reply: Any) -> None:
        """One lane's answer; the last one of its turn takes all of them, highest lane first."""
        claimed = Claimed(0, [], []) if self._is_refused(reply) else self._queue.read_block(reply)
        self.claims.note_lane(lane, asked, len(claimed.jobs) + len(claimed.broken))
        fresh.append(claimed)
        if len(fresh) == reads:
            self.is_claiming = self.is_topping_up = False
            jobs = [job for one in fresh for job in one.jobs]
            self.claims.note_dry(is_dry=not self.claims.has_backlog)
            self._take(Claimed(0, jobs, [lease for one in fresh for lease in one.broken]))

    def _read_low(self, asked: int, reply: Any) -> None:
        if not self._is_refused(reply):
            claimed = self._queue.read_block(reply)
            self.claims.note_lane(LOW, asked, len(claimed.jobs))
            self._take(claimed)

    def _blocked(self, asked: int, room: int, reply: Any) -> None:
        self.is_blocked = False
        if self._is_refused(reply):
            return
        claimed = self._queue.read_block(reply)
        # Fewer than asked for: that was all, so the next read can wait for the next settle.
        self.claims.note_lanes(asked, claimed.jobs)
        self.is_topping_up = self.claims.has_backlog and asked > 1
        self.claims.note_dry(is_dry=not self.claims.has_backlog)
        if len(claimed.jobs) > room:  # before they are in hand; the lowest lanes' stand last
            self._give_back(claimed.jobs[room:], marks=0)
            del claimed.jobs[room:]
        self._take(claimed)
