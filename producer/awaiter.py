"""Waiting for jobs, asking where they are, cancelling them: what the asyncio client does for its handles."""

from __future__ import annotations

import asyncio
import time

from broker.errors import RedisUnavailable, ResultExpired
from broker.intake import state_of
from producer import results, talks
from producer.aline import AsyncLine
from producer.outbox import AsyncModel
from producer.results import Result
from producer.search import SEARCH_S
from producer.tickets import LOOK_MOST_S, Sink, Ticket, gone, late, not_found_yet


class AsyncWaiter:
    """The waiting half of an AsyncProducer; the submitting half builds on it."""

    _line: AsyncLine
    _patience_s: float

    async def _await(
        self, ticket: Ticket, timeout: float | None, sink: Sink | None = None, *, since: float | None = None
    ) -> None:
        """`timeout` counts from `since`, now by default."""
        place: AsyncModel = ticket._channel  # type: ignore[assignment]
        target = sink or ticket
        started = time.monotonic() if since is None else since
        deadline = started + timeout if timeout is not None else float("inf")
        pause, away_since = 1.0, 0.0
        if ticket._is_late_or_foreign(time.monotonic()):
            await self._look(place, ticket)
        while target._blob is None:
            now = time.monotonic()
            try:
                if await place.reader.wait(target, min(deadline, now + pause)):
                    return
                if time.monotonic() >= deadline:
                    raise late(ticket, timeout, await self._line.run(talks.load_text(place)))
                await self._look(place, ticket)
                away_since = 0.0
            except RedisUnavailable:
                away_since = away_since or now
                if time.monotonic() - away_since >= self._patience_s or time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(0.05)
            pause = min(2 * pause, LOOK_MOST_S)

    async def _look(self, place: AsyncModel, ticket: Ticket) -> str:
        give_up_at = time.monotonic() + SEARCH_S
        state, outcomes = await self._line.run(talks.look(place, ticket))
        while state == "searching" and time.monotonic() < give_up_at:
            state, outcomes = await self._line.run(talks.look(place, ticket))
        for outcome in outcomes:
            place.reader.take(outcome)
        if outcomes and ticket._blob is None:
            ticket._blob = outcomes[0]
        if state == "unknown" and not await place.reader.wait(ticket, time.monotonic() + talks.GRACE_S):
            place.mailbox.forget(ticket)
            raise gone(ticket)
        return state

    async def _read(self, ticket: Ticket, index: int = -1) -> Result:
        blob = ticket._blob
        assert blob is not None
        if results.is_elsewhere(blob):
            blob = await self._line.run(talks.stored(ticket._channel, ticket))
            if blob is None:
                raise gone(ticket)
            ticket._blob = blob
        return results.read(ticket._channel.model, blob, index)

    async def _status(self, ticket: Ticket) -> str:
        place: AsyncModel = ticket._channel  # type: ignore[assignment]
        if ticket._blob is None:
            try:
                state = await self._look(place, ticket)
            except ResultExpired:
                return "unknown"
            if ticket._blob is None:
                return "unknown" if state == "searching" else state
        return state_of(ticket._blob)

    async def _cancel(self, ticket: Ticket) -> bool:
        if ticket._blob is not None:
            return False
        give_up_at = time.monotonic() + SEARCH_S
        while (state := await self._line.run(talks.cancel(ticket._channel, ticket))) == "searching":
            if time.monotonic() >= give_up_at:
                raise not_found_yet(ticket)
        return state == "cancelled"
