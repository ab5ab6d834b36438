"""Reading one client's reply list for many waiting threads, without a thread of its own.

Leader and followers: of the threads that wait, one holds the role, blocks on Redis and routes what comes to all tickets;
the others sleep on a lock each. Who has its outcome gives the role to another. So one thread alone waits with no hand-over
at all, and a thousand cost one connection.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from broker.connection import LOST, Link, ResponseError, refused
from broker.errors import PenstockError, RedisUnavailable
from broker.intake import Intake
from producer.mailbox import Mailbox
from producer.tickets import Sink, Ticket

SLICE_S = 1.0  # well under the link's read timeout
FIRST_PAUSE_S, MOST_PAUSE_S = 0.05, 1.0  # before it connects again
DRAIN_COUNT = 500
DRAIN_BYTES = 4 << 20


class Reader:
    """Waits for outcomes of one model's jobs. `patience_s`: how long Redis may be away before a waiter is told."""

    def __init__(self, link: Link, intake: Intake, mailbox: Mailbox, *, patience_s: float) -> None:
        self._link = link
        self._intake = intake
        self._mailbox = mailbox
        self._patience_s = patience_s
        self._drain_count = drain_count(())
        self._role = threading.Lock()
        self._mutex = threading.Lock()  # guards _waiting
        self._waiting: dict[Ticket | Sink, list[threading.Lock]] = {}
        self._is_closed = False

    def wait(self, target: Ticket | Sink, deadline: float) -> bool:
        """Whether an outcome came for `target` before `deadline` (monotonic). Raises RedisUnavailable."""
        is_first = True
        while target._blob is None:
            if not is_first and time.monotonic() >= deadline:
                return False
            is_first = False
            if self._role.acquire(blocking=False):
                try:
                    self._lead(target, deadline)
                finally:
                    self._role.release()
                    self._hand_over()
            else:
                self._follow(target, deadline)
        return True

    def take(self, outcome: bytes) -> None:
        """Routes an outcome that came another way than by the reply list."""
        ticket = self._mailbox.route(outcome)
        if ticket is not None:
            self._wake((ticket,))

    def drain(self) -> None:
        """Takes what lies in the reply list, unless somebody reads it already; keeps the list of a flood short."""
        if self._role.acquire(blocking=False):
            try:
                self._connect(0.0)
                count = self._drain_count
                while self._route(self._link.call(*self._intake.drain(count)) or ()) == count:
                    pass  # there is more
            except (*LOST, RedisUnavailable, ResponseError):
                pass  # whoever waits next connects again, or is told
            finally:
                self._role.release()
                self._hand_over()

    def close(self) -> None:
        """Stops waiting threads within a slice and closes the link."""
        self._is_closed = True
        with self._mutex:
            events = [event for events in self._waiting.values() for event in events]
            self._waiting.clear()
        for event in events:
            event.release()
        if self._role.acquire(timeout=2 * SLICE_S):
            self._link.close()
            self._role.release()

    def abandon(self) -> None:
        """In a forked child: closes our copy of the socket; the parent's connection stays as it was."""
        self._link.close()

    # --- leading ----------------------------------------------------------------------------

    def _lead(self, target: Ticket | Sink, deadline: float) -> None:
        link, intake = self._link, self._intake
        is_first, pause = True, FIRST_PAUSE_S
        while target._blob is None:
            left = deadline - time.monotonic()
            if left <= 0 and not is_first:
                return
            is_first = False
            if self._is_closed:
                raise PenstockError("this Producer was closed while a result was awaited; ask another one by id")
            try:
                if link.fileno() < 0:
                    self._connect(left)
                if left <= 0:  # only looks; a blocked read, be it of 1 ms, takes an idle Redis up to 100 ms
                    self._route(link.call(*intake.drain(self._drain_count)) or ())
                    return
                block = intake.wait(min(left, SLICE_S))
                has_more = len(self._mailbox) > 1
                if has_more:  # one round trip: what came with the first element is drained at once
                    link.send(block, intake.drain(self._drain_count))
                else:
                    link.send(block)
                popped = link.read()
                pause = FIRST_PAUSE_S
                if popped is not None:
                    self._route((popped[1],))
                if has_more:
                    self._route(link.read() or ())
            except LOST:
                # Connects again; what was popped for us and lost is found by its stored result. The pause is for a server
                # that lets us in and then answers that it may not serve (a demoted master).
                link.close()
                time.sleep(min(pause * random.uniform(0.5, 1.5), max(0.0, left)))
                pause = min(2 * pause, MOST_PAUSE_S)
            except ResponseError as error:
                link.close()
                raise refused(link.url, error) from None
            except BaseException:
                link.close()  # a reply may be under way; the next one must not take it for its own
                raise

    def _connect(self, left_s: float) -> None:
        if self._link.fileno() < 0:
            self._link.connect_within(min(self._patience_s, max(left_s, 0.05)))

    def _route(self, elements: Any) -> int:
        """Hands on what came; how many elements it was."""
        if elements:
            self._wake(self._mailbox.route_all(elements))
            if len(elements) > 1:
                self._drain_count = drain_count(elements)
        return len(elements)

    def _wake(self, tickets: Iterable[Ticket]) -> None:
        if not self._waiting:
            return
        with self._mutex:
            for ticket in tickets:
                for event in self._waiting.pop(ticket, ()):
                    event.release()
                if ticket._sink is not None:
                    for event in self._waiting.pop(ticket._sink, ()):
                        event.release()

    # --- following --------------------------------------------------------------------------

    def _follow(self, target: Ticket | Sink, deadline: float) -> None:
        event = threading.Lock()
        event.acquire()
        with self._mutex:
            self._waiting.setdefault(target, []).append(event)
        # Only now, listed, look again: the leader may have left, or have had our outcome, in between.
        if target._blob is None and self._role.locked() and not self._is_closed:
            event.acquire(timeout=max(0.0, deadline - time.monotonic()))
        with self._mutex:
            events = self._waiting.get(target)
            if events is not None and event in events:
                events.remove(event)
                if not events:
                    del self._waiting[target]
                return
        if target._blob is not None or time.monotonic() >= deadline:
            self._hand_over()  # we were woken perhaps to lead, and shall not

    def _hand_over(self) -> None:
        """Wakes one follower to lead, when there is one and nobody does."""
        if self._waiting and not self._role.locked():
            with self._mutex:
                if self._waiting:
                    for event in self._waiting.popitem()[1]:
                        event.release()


def drain_count(elements: Sequence[bytes]) -> int:
    """How many elements to take from a reply list at once, judging by the last ones: DRAIN_BYTES at most."""
    size = sum(map(len, elements)) // max(1, len(elements))
    return max(1, min(DRAIN_COUNT, DRAIN_BYTES // (size + 1)))
