"""Which outcome belongs to whom: routes what comes back to the tickets of one model. Pure; the clients do the reading.

Tickets are held weakly: a job whose handle was thrown away costs nothing once its outcome has passed by, or at the next
sweep.
"""

from __future__ import annotations

from collections.abc import Iterable
from weakref import ref

from broker import codec
from producer.tickets import Ticket

SWEEP_AT = 8192


class Mailbox:
    """Job id -> ticket of the jobs of one model whose outcome has not come."""

    def __init__(self) -> None:
        self._expected: dict[str, ref[Ticket]] = {}
        self._sweep_at = SWEEP_AT

    def __len__(self) -> int:
        return len(self._expected)

    def expect(self, tickets: Iterable[Ticket]) -> None:
        """Before the jobs are sent: their outcomes may be quicker than the answer."""
        expected = self._expected
        for ticket in tickets:
            expected[ticket._job] = ref(ticket)
        if len(expected) > self._sweep_at:
            self._sweep()

    def forget(self, ticket: Ticket) -> None:
        self._expected.pop(ticket._job, None)

    def known(self, ticket: Ticket) -> Ticket:
        """The ticket already expected under the same id, or this one."""
        known = self._expected.get(ticket._job)
        return (known() if known is not None else None) or ticket

    def all(self) -> list[str]:
        """Ids of all jobs whose outcome has not come, those submitted first in front."""
        return list(self._expected)

    def route(self, outcome: bytes) -> Ticket | None:
        """Gives an outcome to its ticket; the ticket, None when nobody holds it any more."""
        held = self._expected.pop(codec.outcome_id(outcome), None)
        ticket = held() if held is not None else None
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
            for outcome in codec.split_frames(element):
                ticket = route(outcome)
                if ticket is not None:
                    routed.append(ticket)
        return routed

    def _sweep(self) -> None:
        for job, held in list(self._expected.items()):
            if held() is None:
                self._expected.pop(job, None)
        self._sweep_at = max(SWEEP_AT, 2 * len(self._expected))
