"""Compares what Redis calls a slot's with what the slot holds: leases it never saw go back, leases Redis forgot are dropped.

The answer to a claim may be lost on its way; a server may come back with a shorter history.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import structlog

from broker.lease import lane_and_entry, lease_of
from broker.queue import Queue
from workers.forgotten import Forgotten
from workers.wire import Pair, Wire

log = structlog.get_logger()


class Ghosts:
    """`held`: every lease in hand; `returning` gives those let go whose return is not answered yet.
    `is_refused` looks at error replies."""

    def __init__(
        self,
        *,
        queue: Queue,
        wire: Wire,
        held: Collection[bytes],
        forgotten: Forgotten,
        every_s: float,
        returning: Callable[[], Collection[bytes]],
        is_refused: Callable[[Any], bool],
        clock: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._wire = wire
        self._held = held
        self._forgotten = forgotten
        self._every_s = every_s
        self._returning = returning
        self._is_refused = is_refused
        self._clock = clock
        self._next = clock() + every_s

    def is_due(self) -> bool:
        """Whether it is time to look again."""
        return self._clock() > self._next

    def pairs(self) -> list[Pair]:
        """Asks for all that Redis calls ours; what we do not hold is given back unharmed."""
        self._next = self._clock() + self._every_s
        return [(command, partial(self._heard, lane)) for lane, command in enumerate(self._queue.pending())]

    def _heard(self, lane: int, reply: Any) -> None:
        if self._is_refused(reply):
            return
        returning = self._returning()  # perhaps with a mark, which must not be lost to us
        leases = [lease_of(lane, entry) for entry, *_ in reply]
        ghosts = [lane_and_entry(one) for one in leases if one not in self._held and one not in returning]
        if ghosts:
            log.warning("leases we never saw", count=len(ghosts), next="they are given back unharmed")
            self._wire.send((self._queue.give_back(ghosts, marks=0), self._is_refused))

    def gone(self) -> list[bytes]:
        """Leases in hand that Redis does not call ours any more; waits for its answer. Begins with a write, so that a server
        which takes none (a replica, a full disk) counts as away still and is not asked again and again."""
        _, *replies = self._wire.link.call_all(self._queue.own_leases(len(self._held)))
        pending: list[bytes] = []
        for lane, reply in enumerate(replies):
            if not self._is_refused(reply):
                pending += [lease_of(lane, entry) for entry, *_ in reply]
        gone = self._forgotten.compare(self._held, pending)
        if gone:
            log.warning("redis forgot leases", count=len(gone), next="what was claimed under them is not settled by us")
        return gone
