"""What the slot holds of Redis: claims jobs, settles and fails them, returns them, and finds its way back after a loss.

One wire, several commands under way. Nothing is repeated that could count twice in Redis: a settle sent again is answered
0 by XACK, a claim whose answer was lost shows up as a ghost and is returned unharmed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from broker.connection import LOST, Command, is_missing_group
from broker.errors import RedisUnavailable
from broker.messages import Job
from broker.queue import MOST_MARKS, Claimed, Ended, Fault, Queue
from workers.board import Board
from workers.claimer import Claimer
from workers.failures import POLICIES, Kind
from workers.faults import broken, fault_of
from workers.forgotten import Forgotten
from workers.wire import Handler, Pair, Wire

log = structlog.get_logger()

SETTLE_BYTES = 2 << 20  # of outcomes in one script call; none should handle more than 4 MB
OFFSET_LIVES_S = 10.0
SILENT_S = 10.0  # twice a link's read timeout: a host that vanished closes no connection, and TCP alone takes minutes
_BACK_OFF = POLICIES[Kind.REDIS_LOSS]
FIRST_PAUSE_S, MOST_PAUSE_S = _BACK_OFF.first_ms / 1e3, _BACK_OFF.most_ms / 1e3


class Leases:
    """The slot's side of the queue. `take` gets claimed jobs and gives back those that do not fit, as faults."""

    def __init__(
        self,
        *,
        queue: Queue,
        wire: Wire,
        board: Board,
        lease_s: float,
        take: Callable[[list[Job]], list[Fault]],
        restore: Callable[[], None],
        on_settled: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`restore` publishes groups and spec again after Redis forgot them."""
        self.wire = wire
        self.claimed_ms: dict[bytes, float] = {}  # entry -> Redis time of its claim
        self.forgotten = Forgotten()
        self.is_leaving = False  # jobs that still arrive are returned at once
        self.lost_since: float | None = None
        self._queue = queue
        self._board = board
        self._lease_s = lease_s
        self._take_jobs = take
        self._restore = restore
        self._on_settled = on_settled
        self._clock = clock
        self._offset_ms = -float("inf")  # Redis' time minus our monotonic clock
        self._offset_until = 0.0
        self._settling: dict[int, tuple[list[Ended], list[Fault]]] = {}  # sent, not answered
        self._sends = 0
        self._unreturned: list[Pair] = []  # to be sent after the reconnect
        # Held jobs that one more mark ends: one at a time, so that none dies for another.
        self._worn: set[bytes] = set()
        self._faults: list[Fault] = []  # found at claim time, sent with the next talk
        self._next_ghosts = clock() + lease_s / 2
        self._heard_at = clock()
        self._reconnect_at, self._pause_s = 0.0, FIRST_PAUSE_S
        self.claimer = Claimer(
            queue=queue, take=self._take, set_time=self._set_time, is_refused=self._is_refused, clock=clock
        )

    def _set_time(self, now_ms: int) -> None:
        """Redis said it was `now_ms` a moment ago. Being late makes the offset too small, never too large, so the largest
        of the last seconds is the best one; an older one is given up, since clocks drift and are set."""
        now = self._clock()
        offset_ms = now_ms - now * 1e3
        if offset_ms > self._offset_ms or now > self._offset_until:
            self._offset_ms = offset_ms
            self._offset_until = now + OFFSET_LIVES_S

    def redis_ms(self) -> float:
        """Redis' time now, from its last answer and the monotonic clock."""
        return self._clock() * 1e3 + self._offset_ms

    @property
    def is_quiet(self) -> bool:
        """Whether Redis knows everything it must."""
        return (
            not self._settling
            and not self._faults
            and not self._unreturned
            and not len(self.wire)
            and self.lost_since is None
        )

    # --- one round trip -----------------------------------------------------------------------

    def talk(self, ended: list[Ended], faults: list[Fault], *, room_rows: int, is_busy: bool, block_ms: int) -> bool:
        """Sends what ended together with the next claim; blocks for jobs when idle. True when `ended` was taken.

        `room_rows` 0 claims nothing, `block_ms` 0 does not block. Nothing is sent while a blocked read is out: Redis would not look at it.
        """
        self._watch_silence()
        if self.claimer.is_blocked or (self.lost_since is not None and not self._reconnect()):
            return False
        try:
            pairs: list[Pair] = []
            ended = self.forgotten.ended(ended)
            faults = self.forgotten.faults(faults + self._faults)
            if ended or faults:
                self._faults = []
                pairs += self._settle_pairs(ended, faults)
            if self._clock() > self._next_ghosts and not len(self.wire):
                pairs += self._ghost_pairs()  # before the claim, so that what it brings is no ghost
            if room_rows > 0 and not self.claimer.is_claiming and not self.is_leaving:
                pairs += self.claimer.pairs(
                    room_rows, block_ms, is_busy=is_busy, is_settling=bool(pairs), is_quiet=not len(self.wire)
                )
            if pairs:
                self.wire.send(*pairs)
        except LOST as error:
            self.lose(error)
        return True

    def hear(self) -> None:
        """Reads the answers that are there; call it when the wire is readable."""
        try:
            self.wire.pump()
            self._heard_at = self._clock()
        except LOST as error:
            self.lose(error)

    def _watch_silence(self) -> None:
        """An answer that does not come for so long is not coming: Redis' host is gone, or will not say."""
        now = self._clock()
        if not len(self.wire):
            self._heard_at = now
        elif now - self._heard_at > SILENT_S:
            self.lose(TimeoutError(f"no answer for {SILENT_S:g} s"))

    def ask(self, command: Command, handler: Handler) -> None:
        """Sends one more command, unless a blocked read is out or Redis is away."""
        if not self.claimer.is_blocked and self.lost_since is None:
            try:
                self.wire.send((command, handler))
            except LOST as error:
                self.lose(error)

    def give_back(self, jobs: list[Job], *, marks: int) -> None:
        """Returns leases; what Redis cannot be told now it is told first thing after the reconnect."""
        for job in jobs:
            self._let_go(job.entry)
        if not jobs:
            return
        pair = (self._queue.give_back([(job.lane, job.entry) for job in jobs], marks=marks), self._check)
        if self.lost_since is not None:
            self._unreturned.append(pair)
            return
        try:
            self.wire.send(pair)
        except LOST as error:
            self._unreturned.append(pair)
            self.lose(error)

    # --- what came ------------------------------------------------------------------------------

    def _take(self, claimed: Claimed) -> None:
        """Takes claimed jobs in hand, or ends and returns at once what must not run."""
        if claimed.jobs:
            self._set_time(max(job.submitted_ms for job in claimed.jobs))  # no job comes before it was submitted
        now_ms = self.redis_ms()
        self._faults += [broken(lease) for lease in claimed.broken]
        fresh, later = [], []
        for job in claimed.jobs:
            if job.entry in self._board.held:
                continue  # lost by a sweep and claimed again, by us: the copy in hand goes on
            self._board.held[job.entry] = job.lane
            self.forgotten.took(job.entry, job.id)
            self.claimed_ms[job.entry] = now_ms
            if 0 < job.deadline_ms <= now_ms:
                text = f"the deadline passed {now_ms - job.deadline_ms:.0f} ms ago, before the forward began"
                self._faults.append(fault_of(job, "expired", reason="deadline", text=text, now_ms=now_ms))
            elif job.deliveries == MOST_MARKS and self._worn:
                later.append(job)
            else:
                fresh.append(job)
                if job.deliveries == MOST_MARKS:
                    self._worn.add(job.entry)
        self.give_back(later, marks=0)
        if not fresh:
            return
        if self.is_leaving:
            self.give_back(fresh, marks=0)
            return
        self._faults += self._take_jobs(fresh)
        self.claimer.claims.note_turn(fresh)

    # --- ending -------------------------------------------------------------------------------

    def _settle_pairs(self, ended: list[Ended], faults: list[Fault]) -> list[Pair]:
        """The commands that end jobs; they stay known until answered, to be sent again after a loss."""
        self._sends += 1
        self._settling[self._sends] = (ended, faults)
        pairs: list[Pair] = []
        chunk: list[Ended] = []
        size = 0
        for one in ended:
            chunk.append(one)
            size += len(one.outcome)
            if size >= SETTLE_BYTES:
                pairs.append((self._queue.settle(chunk), self._check))
                chunk, size = [], 0
        if chunk:
            pairs.append((self._queue.settle(chunk), self._check))
        if faults:
            pairs.append((self._queue.fail(faults), self._check))
        pairs[-1] = (pairs[-1][0], partial(self._settled, self._sends))
        return pairs

    def _settled(self, number: int, reply: Any) -> None:
        self._is_refused(reply)
        ended, faults = self._settling.pop(number)
        for one in ended:
            self._let_go(one.job.entry)
        for fault in faults:
            self._let_go(fault.entry)
        self._board.jobs += len(ended) + len(faults)
        if ended:
            self._on_settled()

    def _let_go(self, entry: bytes) -> None:
        self._board.held.pop(entry, None)
        self.forgotten.let_go(entry)
        self.claimed_ms.pop(entry, None)
        self._worn.discard(entry)

    def _check(self, reply: Any) -> None:
        self._is_refused(reply)

    def _is_refused(self, reply: Any) -> bool:
        """Whether Redis answered with an error: forgotten groups are made again, any other ends the process."""
        if not isinstance(reply, Exception):
            return False
        if not is_missing_group(reply):
            raise reply
        log.warning("redis forgot the queue", error=str(reply), next="groups and spec are published again")
        self._restore()
        self.claimer.claims.note_dry(is_dry=False)
        return True

    # --- ghosts and losses ----------------------------------------------------------------------

    def _ghost_pairs(self) -> list[Pair]:
        self._next_ghosts = self._clock() + self._lease_s / 2
        return [(command, partial(self._ghosts, lane)) for lane, command in enumerate(self._queue.pending())]

    def _ghosts(self, lane: int, reply: Any) -> None:
        if self._is_refused(reply):
            return
        ghosts = [(lane, entry) for entry, *_ in reply if entry not in self._board.held]
        if ghosts:
            log.warning("leases we never saw", count=len(ghosts), next="they are given back unharmed")
            self.wire.send((self._queue.give_back(ghosts, marks=0), self._check))

    def lose(self, error: BaseException) -> None:
        """The connection broke: hold what we have, try again later, never in a tight loop."""
        if self.lost_since is None:
            self.lost_since = self._clock()
            self._pause_s = FIRST_PAUSE_S
            log.warning("redis lost", error=str(error), retry_in_s=self._pause_s, leases=len(self._board.held))
        self._drop_wire()
        self._reconnect_at = self._clock() + self._pause_s * random.uniform(0.5, 1.5)
        self._pause_s = min(MOST_PAUSE_S, self._pause_s * 2)

    def hang_up(self) -> None:
        """Ends a blocked read whose jobs nobody wants any more: Redis hears nothing else on that connection until it is over.

        Connects again with the next talk; what was read meanwhile is a ghost, and returned as one.
        """
        if self.claimer.is_blocked and self.lost_since is None:
            self.lost_since = self._clock()
            self._drop_wire()
            self._reconnect_at = 0.0

    def _drop_wire(self) -> None:
        self.wire.forget()
        self.wire.link.close()
        self.claimer.forget()

    def until_reconnect_s(self) -> float:
        """Seconds until the next try; infinite while connected."""
        return float("inf") if self.lost_since is None else max(0.0, self._reconnect_at - self._clock())

    def _reconnect(self) -> bool:
        if self._clock() < self._reconnect_at:
            return False
        try:
            self.wire.link.connect()
            self._restore()  # a server that came back empty, or another one, knows neither groups nor spec
            self._drop_forgotten()
            pairs, self._unreturned = self._unreturned, []
            for number, (ended, faults) in list(self._settling.items()):
                left = self.forgotten.ended(ended), self.forgotten.faults(faults)
                if any(left):
                    del self._settling[number]
                    pairs += self._settle_pairs(*left)
                else:  # all of it had arrived, or was forgotten
                    self._settled(number, 0)
            self.wire.send(*pairs, *self._ghost_pairs())
        except (*LOST, RedisUnavailable) as error:
            self.lose(error)
            return False
        self._heard_at = self._clock()
        log.info("redis is back", after_s=round(self._clock() - (self.lost_since or 0.0), 2))
        self.lost_since = None
        self.claimer.claims.note_dry(is_dry=False)
        return True

    def _drop_forgotten(self) -> None:
        """Compares what is in hand with what Redis calls ours. Begins with a write, so that a server which takes none (a
        replica, a full disk) counts as away still and is not asked again and again."""
        held = self._board.held
        _, *replies = self.wire.link.call_all(self._queue.own_leases(len(held)))
        pending: list[tuple[int, bytes]] = []
        for lane, reply in enumerate(replies):
            if not self._is_refused(reply):
                pending += [(lane, entry) for entry, *_ in reply]
        gone = self.forgotten.compare(held, pending)
        for entry in gone:
            self._let_go(entry)
        if gone:
            log.warning("redis forgot leases", count=len(gone), next="what was claimed under them is not settled by us")
