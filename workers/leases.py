"""What the slot holds of Redis: claims jobs, settles and fails them, returns them, and finds its way back after a loss.

One wire, several commands under way. Nothing is repeated that could count twice in Redis: a settle sent again is answered
0 by XACK, a claim whose answer was lost shows up as a ghost and is returned unharmed.

Not here: how many from which lane (claimer), the connection (contact), who holds what (ghosts), what is being ended (settling).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import structlog

from broker.claimed import MOST_MARKS, Claimed
from broker.connection import LOST, Command, is_missing_group
from broker.ends import Ended, Fault
from broker.errors import RedisUnavailable
from broker.messages import Job
from broker.queue import Queue
from workers.board import Board
from workers.claimer import Claimer
from workers.claims import Rooms
from workers.contact import Contact
from workers.faults import broken, fault_of
from workers.forgotten import Forgotten
from workers.ghosts import Ghosts
from workers.owed import Owed
from workers.pacing import Look
from workers.redis_clock import RedisClock
from workers.settling import Settling
from workers.wire import Handler, Pair, Wire

log = structlog.get_logger()
_submitted_ms = attrgetter("submitted_ms")


class Leases:
    """The slot's side of the queue. `take` gets claimed jobs and gives back those that do not fit, as faults."""

    def __init__(
        self,
        *,
        queue: Queue, wire: Wire, board: Board, lease_s: float, take: Callable[[list[Job]], list[Fault]], restore: Callable[[], None],
        on_settled: Callable[[list[Ended]], None], clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`restore` publishes groups and spec again after Redis forgot them."""
        self.wire = wire
        self.claimed_ms: dict[bytes, float] = {}  # lease -> Redis time of its claim
        self.forgotten = Forgotten()
        self.is_leaving = False  # jobs that still arrive are returned at once
        self._queue = queue
        self._board = board
        self._take_jobs = take
        self._restore = restore
        self._settling = Settling(
            queue=queue, board=board, forgotten=self.forgotten, let_go=self._let_go, is_refused=self._is_refused,
            on_settled=on_settled,
        )  # fmt: skip
        self._owed = Owed()
        # Held jobs that one more mark ends: one at a time, so that none dies for another.
        self._worn: set[bytes] = set()
        self._faults: list[Fault] = []  # found at claim time, sent with the next talk
        self._time = RedisClock(clock)
        self.redis_ms = self._time.ms  # Redis' time now, from its last answer and the monotonic clock
        self.claimer = Claimer(
            queue=queue,
            take=self._take,
            give_back=self.give_back,
            set_time=self._time.hear,
            is_refused=self._is_refused,
            clock=clock,
        )
        self._contact = Contact(wire=wire, claimer=self.claimer, held=board.held, clock=clock)
        self.hang_up, self.until_reconnect_s = self._contact.hang_up, self._contact.until_reconnect_s
        self._ghosts = Ghosts(
            queue=queue, wire=wire, held=board.held, forgotten=self.forgotten, every_s=lease_s / 2,
            returning=self._owed.returning, is_refused=self._is_refused, clock=clock,
        )  # fmt: skip

    @property
    def lost_since(self) -> float | None:
        """When the connection broke; None while Redis can be talked to."""
        return self._contact.lost_since

    @property
    def is_quiet(self) -> bool:
        """Whether Redis knows everything it must."""
        return (
            not (len(self._settling) or self._faults or len(self._owed) or self.wire.under_way)
            and self.lost_since is None
        )

    @property
    def is_silent(self) -> bool:
        """Whether nothing is to be sent from here, and nothing awaited."""
        return not (self._faults or self.wire.under_way or self._ghosts.is_due()) and self._contact.lost_since is None

    # --- one round trip -----------------------------------------------------------------------

    def talk(
        self, ended: list[Ended], faults: list[Fault], *, rooms: Rooms, is_busy: bool, block_ms: int, batch_rows: int = 1,
        is_due: bool = False, look: Look | None = None,
    ) -> bool:  # fmt: skip
        """Sends what ended together with the next claim; blocks for jobs when idle. True when `ended` was taken. `NO_ROOM` claims
        nothing, `block_ms` 0 does not block; the rest as in `Claimer.pairs`. Nothing is sent while a blocked read is out: Redis
        would not look at it."""
        contact = self._contact
        contact.watch_silence()
        if self.claimer.is_blocked or (contact.lost_since is not None and not self._reconnect()):
            return False
        try:
            pairs: list[Pair] = []
            ended = self.forgotten.ended(ended)
            faults = self.forgotten.faults(faults + self._faults)
            if ended or faults:
                self._faults = []
                pairs += self._settling.pairs(ended, faults)
            if self._ghosts.is_due() and not self.wire.under_way:
                pairs += self._ghosts.pairs()  # before the claim, so that what it brings is no ghost
            if any(rooms) and not self.claimer.is_claiming and not self.is_leaving:
                pairs += self.claimer.pairs(
                    rooms, block_ms, is_busy=is_busy, is_settling=bool(pairs), is_quiet=not self.wire.under_way,
                    batch_rows=batch_rows, is_due=is_due, look=look,
                )  # fmt: skip
            if pairs:
                self.wire.send(*pairs)
        except LOST as error:
            self._contact.lose(error)
        return True

    def pause(self, lanes: frozenset[int]) -> None:
        """Claims from these lanes no more; what waits in a blocked read over others than those now open is hung up."""
        self.hang_up()
        self.claimer.pause(lanes)

    def hear(self) -> None:
        """Reads the answers that are there; call it when the wire is readable."""
        try:
            self.wire.pump()
            self._contact.heard()
        except LOST as error:
            self._contact.lose(error)

    def ask(self, command: Command, handler: Handler) -> bool:
        """Sends one more command, unless a blocked read is out or Redis is away; whether it did."""
        if self.claimer.is_blocked or self.lost_since is not None:
            return False
        try:
            self.wire.send((command, handler))
        except LOST as error:
            self._contact.lose(error)
            return False
        return True

    def give_back(self, jobs: list[Job], *, marks: int) -> None:
        """Returns leases."""
        for job in jobs:
            self._let_go(job.lease)
        if not jobs:
            return
        command = self._queue.give_back([(job.lane, job.entry) for job in jobs], marks=marks)
        self._tell(self._owed.add(command, self._is_refused, frozenset(job.lease for job in jobs)))

    def tell(self, command: Command) -> None:
        """Sends what may be repeated, and after a loss again until it is answered; nobody reads the answer."""
        self._tell(self._owed.add(command, lambda reply: None))

    def _tell(self, pair: Pair) -> None:
        if self.lost_since is None:
            try:
                self.wire.send(pair)
            except LOST as error:
                self._contact.lose(error)

    # --- what came ------------------------------------------------------------------------------

    def _take(self, claimed: Claimed) -> None:
        """Takes claimed jobs in hand, or ends and returns at once what must not run."""
        if claimed.jobs:
            self._time.hear(max(map(_submitted_ms, claimed.jobs)))  # no job comes before it was submitted
        now_ms = self.redis_ms()
        self._faults += [broken(lease) for lease in claimed.broken]
        fresh, later = [], []
        for job in claimed.jobs:
            if job.lease in self._board.held and self.forgotten.is_held(job.lease, job.id):
                continue  # lost by a sweep and claimed again, by us: the copy in hand goes on
            self._board.held.add(job.lease)
            self.forgotten.took(job.lease, job.id)
            self.claimed_ms[job.lease] = now_ms
            if 0 < job.deadline_ms <= now_ms:
                text = f"the deadline passed {now_ms - job.deadline_ms:.0f} ms ago, before the forward began"
                self._faults.append(fault_of(job, "expired", reason="deadline", text=text, now_ms=now_ms))
            elif job.deliveries == MOST_MARKS and self._worn:
                later.append(job)
            else:
                fresh.append(job)
                if job.deliveries == MOST_MARKS:
                    self._worn.add(job.lease)
        if later:
            self.give_back(later, marks=0)
        if not fresh:
            return
        if self.is_leaving:
            self.give_back(fresh, marks=0)
            return
        self._faults += self._take_jobs(fresh)
        self.claimer.claims.note_turn(fresh)

    # --- ending -------------------------------------------------------------------------------

    def _let_go(self, lease: bytes) -> None:
        self._board.held.discard(lease)
        self.forgotten.let_go(lease)
        self.claimed_ms.pop(lease, None)
        self._worn.discard(lease)

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

    # --- after a loss -------------------------------------------------------------------------

    def _reconnect(self) -> bool:
        if self._contact.until_reconnect_s() > 0:
            return False
        try:
            self.wire.link.connect()
            if not self.is_leaving:  # its successor may have published another spec and other limits by now
                self._restore()  # a server that came back empty, or another one, knows neither groups nor spec
            for lease in self._ghosts.gone():
                self._let_go(lease)
            self.wire.send(*self._owed.pairs(), *self._settling.again(), *self._ghosts.pairs())
        except (*LOST, RedisUnavailable) as error:
            self._contact.lose(error)
            return False
        self._contact.restored()
        return True
