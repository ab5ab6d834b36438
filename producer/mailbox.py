"""Which outcome belongs to whom: routes what comes back to the tickets of one model. Pure; the clients do the reading.

A ticket whose handle was thrown away is dropped when its outcome passes by, or at the next sweep: the mailbox being the
only one who still refers to it shows in its reference count. (Weak references would say the same, at four times the cost.)
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from broker import outcome_codec
from producer.tickets import Ticket

SWEEP_AT = 8192
UNHELD = 2  # references to a ticket that only the mailbox has: the dict's and getrefcount's own


class Mailbox:
    """Job id -> ticket of the jobs of one model whose outcome has not come."""

    def __init__(self) -> None:
        self._expected: dict[str, Ticket] = {}
        self._sweep_at = SWEEP_AT

    def __len__(self) -> int:
        return len(self._expected)

    def expect(self, tickets: Iterable[Ticket]) -> None:
        """Before the jobs are sent: their outcomes may be quicker than the answer."""
        expected = self._expected
        for ticket in tickets:
            expected[ticket._job] = ticket
        if len(expected) > self._sweep_at:
            self._sweep()

    def forget(self, ticket: Ticket) -> None:
        self._expected.pop(ticket._job, None)

    def known(self, ticket: Ticket) -> Ticket:
        """The ticket already expected under the same id, or this one."""
        return self._expected.get(ticket._job, ticket)

    def all(self) -> list[str]:
        """Ids of all jobs whose outcome has not come, those submitted first in front."""
        return list(self._expected)

    def route(self, outcome: bytes) -> Ticket | None:
        """Gives an outcome to its ticket; the ticket, None when nobody holds it any more."""
        ticket = self._expected.pop(outcome_codec.id_of(outcome), None)
        if ticket is not None:
            ticket._blob = outcome
            if ticket._sink is not None:
                ticket._sink.done.append(ticket)
        return ticket

    def route_all(self, elements: Iterable[bytes]) -> list[Ticket]:
        """Routes the outcomes of reply elements; the tickets they went to."""
        routed = []
        route = self.route
        for element in elements:
            for outcome in outcome_codec.split_frames(element):
                ticket = route(outcome)
                if ticket is not None:
                    routed.append(ticket)
        return routed

    def _sweep(self) -> None:
        for job in list(self._expected):
            if sys.getrefcount(self._expected[job]) <= UNHELD:
                del self._expected[job]
        self._sweep_at = max(SWEEP_AT, 2 * len(self._expected))
