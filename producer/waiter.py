"""Waiting for jobs, asking where they are, cancelling them: what the sync client does for its handles."""

from __future__ import annotations

import time

from broker.connection import Link
from broker.durability import Durability
from broker.errors import RedisUnavailable, ResultExpired
from broker.intake import state_of
from producer import results, talks
from producer.channel import Channel
from producer.line import Line
from producer.reader import Reader
from producer.results import Result
from producer.search import SEARCH_S
from producer.tickets import LOOK_MOST_S, Sink, Ticket, gone, late, not_found_yet


class Model(Channel):
    """One model as this Producer uses it: beside the channel, the reader of its reply list."""

    def __init__(self, name: str, client: str, url: str, patience_s: float, durability: Durability) -> None:
        super().__init__(name, client, durability)
        self.url = url
        self.patience_s = patience_s
        self.unread = 0
        self._read_by(Link(url))

    def _read_by(self, link: Link) -> None:
        self.reader = Reader(link, self.intake, self.mailbox, patience_s=self.patience_s)

    def renew(self, client: str) -> None:
        """After a fork. Closing our copy of the socket leaves the parent's connection as it was."""
        super().renew(client)
        self.reader.abandon()
        self._read_by(Link(self.url))


class Waiter:
    """The waiting half of a Producer; the submitting half builds on it."""

    _line: Line
    _patience_s: float

    def _await(self, ticket: Ticket, timeout: float | None, sink: Sink | None = None) -> None:
        """Until the ticket, or any of its sink's, has its outcome. Raises ResultTimeout, ResultExpired."""
        place: Model = ticket._channel  # type: ignore[assignment]
        target = sink or ticket
        started = time.monotonic()
        deadline = started + timeout if timeout is not None else float("inf")
        pause, away_since = 1.0, 0.0
        place.unread = 0
        if ticket._is_late_or_foreign(started):
            self._look(place, ticket)
        while target._blob is None:
            now = time.monotonic()
            try:
                if place.reader.wait(target, min(deadline, now + pause)):
                    return
                if time.monotonic() >= deadline:
                    raise late(ticket, timeout, self._line.run(talks.load_text(place)))
                self._look(place, ticket)
                away_since = 0.0
            except RedisUnavailable:
                away_since = away_since or now
                if time.monotonic() - away_since >= self._patience_s or time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)
            pause = min(2 * pause, LOOK_MOST_S)

    def _look(self, place: Model, ticket: Ticket) -> str:
        """Looks for a job whose reply does not come; its state. Raises ResultExpired when it is nowhere."""
        give_up_at = time.monotonic() + SEARCH_S
        state, outcomes = self._line.run(talks.look(place, ticket))
        while state == "searching" and time.monotonic() < give_up_at:
            state, outcomes = self._line.run(talks.look(place, ticket))
        for outcome in outcomes:
            place.reader.take(outcome)
        if outcomes and ticket._blob is None:  # its ticket was replaced in the mailbox by another one of the same id
            ticket._blob = outcomes[0]
        if state == "unknown" and not place.reader.wait(ticket, time.monotonic() + talks.GRACE_S):
            place.mailbox.forget(ticket)
            raise gone(ticket)
        return state

    def _read(self, ticket: Ticket, index: int = -1) -> Result:
        blob = ticket._blob
        assert blob is not None
        place = ticket._channel
        if results.is_elsewhere(blob):
            blob = self._line.run(talks.stored(place, ticket))
            if blob is None:
                raise gone(ticket)
            ticket._blob = blob
        return results.read(place.model, blob, index)

    def _status(self, ticket: Ticket) -> str:
        if ticket._blob is None:
            try:
                state = self._look(ticket._channel, ticket)  # type: ignore[arg-type]
            except ResultExpired:
                return "unknown"
            if ticket._blob is None:
                return "unknown" if state == "searching" else state
        return state_of(ticket._blob)

    def _cancel(self, ticket: Ticket) -> bool:
        if ticket._blob is not None:
            return False
        give_up_at = time.monotonic() + SEARCH_S
        while (state := self._line.run(talks.cancel(ticket._channel, ticket))) == "searching":
            if time.monotonic() >= give_up_at:
                raise not_found_yet(ticket)
        return state == "cancelled"
