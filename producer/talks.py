"""Conversations with Redis, written once for the sync and the asyncio client: generators that yield commands and are sent
their replies. No I/O and no waiting here; `line` and `aio` hold the connection and drive them.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeAlias, TypeVar

from broker import keys
from broker.connection import Command
from broker.errors import PenstockError, RedisUnavailable
from broker.intake import FIND_LIMIT_BYTES, Answer, Found, state_of
from broker.queue import INLINE_LIMIT_BYTES
from broker.spec import FIELDS, read
from producer.channel import Channel
from producer.tickets import Parcel, Ticket

T = TypeVar("T")
Talk: TypeAlias = Generator[Sequence[Command], list[Any], T]

FETCH_AT_ONCE = 256
GRACE_S = 0.2  # for an outcome that somebody has read and not yet handed over


def learn_spec(channel: Channel) -> Talk[None]:
    """Reads the model's spec. Raises UnknownModel."""
    (values,) = yield [("HMGET", keys.spec(channel.model), *FIELDS)]
    channel.learn(read(channel.model, _good(values)))


def submit(channel: Channel, parcels: Sequence[Parcel], *, lane: int, delay_ms: int, deadline_ms: int) -> Talk[Answer]:
    """Sends parcels of the same terms as one request. Raises QueueFull when Redis is out of memory, RedisUnavailable."""
    intake = channel.intake
    published = channel.published
    assert published is not None
    blobs = parcels[0].blobs
    dedupe = parcels[0].dedupe
    if len(parcels) > 1:
        blobs = [blob for parcel in parcels for blob in parcel.blobs]
        if any(parcel.dedupe for parcel in parcels):
            none = ("", "")
            dedupe = [pair for parcel in parcels for pair in parcel.dedupe or [none] * len(parcel.blobs)]
    number = intake.numbers.take()
    command = intake.submit(
        number, published.generation, blobs, lane=lane, delay_ms=delay_ms, deadline_ms=deadline_ms, dedupe=dedupe
    )
    try:
        if channel.wants_ready_check:
            reply, *ready = yield [command, *intake.newest_ready()]
            channel.note_ready(ready)
        else:
            (reply,) = yield [command]
    finally:
        intake.numbers.answered(number)
    if isinstance(reply, Exception):
        raise intake.refused_by_redis(reply)
    return intake.read_submit(reply)


def look(channel: Channel, ticket: Ticket) -> Talk[tuple[str, list[bytes]]]:
    """Where a job is, when its reply does not come: (state, outcomes found, its own first).

    Another client's job is watched from here on. The state is `unknown` only when the job is nowhere, `hidden` when the
    queue is too large to be searched for it.
    """
    intake = channel.intake
    if ticket._is_foreign:
        channel.mailbox.expect((ticket,))
        (outcome,) = yield [intake.watch(ticket._job)]
        if _good(outcome) is not None:
            return state_of(outcome), [outcome]
    (reply,) = yield [intake.locate(ticket._job, *ticket._place)]
    state, outcome = intake.read_locate(_good(reply))
    if outcome is not None:
        return state, [outcome, *(yield from _others(channel, outcome))]
    if state == "unknown":
        found = yield from _find(channel, ticket)
        if found is None:
            return "hidden", []
        if found.outcome is not None:
            return state_of(found.outcome), [found.outcome]
        if found.is_delayed:
            return "delayed", []
        if found.entry:
            (reply,) = yield [intake.locate(ticket._job, *ticket._place)]
            state, outcome = intake.read_locate(_good(reply))
            return state, [outcome] if outcome is not None else []
    return state, []


def _others(channel: Channel, outcome: bytes) -> Talk[list[bytes]]:
    """A stored outcome whose reply did not come means that replies were lost: fetches those of other jobs too."""
    found: list[bytes] = []
    if len(outcome) > INLINE_LIMIT_BYTES:  # large ones are fetched one by one, when asked for
        return found
    jobs = channel.mailbox.all()
    for at in range(0, len(jobs), FETCH_AT_ONCE):
        (replies,) = yield [channel.intake.result(jobs[at : at + FETCH_AT_ONCE])]
        there = [reply for reply in _good(replies) if reply is not None]
        found += there
        if 2 * len(there) < FETCH_AT_ONCE:
            break
    return found


def _find(channel: Channel, ticket: Ticket) -> Talk[Found | None]:
    """Searches the lanes of a small queue; remembers the entry it finds. None when the queue is too large."""
    intake = channel.intake
    (queued,) = yield [intake.queued_bytes()]
    if int(_good(queued) or 0) > FIND_LIMIT_BYTES:
        return None
    replies = yield intake.find(ticket._job)
    found = intake.read_find(ticket._job, [_good(reply) for reply in replies])
    if found.entry:
        ticket._lane, ticket._found = found.lane, found.entry
    return found


def cancel(channel: Channel, ticket: Ticket) -> Talk[bool]:
    """Whether the job was ended as cancelled."""
    (done,) = yield [channel.intake.cancel(ticket._job, *ticket._place)]
    if not _good(done):
        found = yield from _find(channel, ticket)
        if found is not None and found.entry:
            (done,) = yield [channel.intake.cancel(ticket._job, *ticket._place)]
    return bool(_good(done))


def stored(channel: Channel, ticket: Ticket) -> Talk[bytes | None]:
    """The stored outcome, None when it is gone."""
    (replies,) = yield [channel.intake.result([ticket._job])]
    outcome: bytes | None = _good(replies)[0]
    return outcome


def load_text(channel: Channel) -> Talk[str]:
    """Depth, oldest age and ready slots, read at most once a second."""
    if not channel.load_text:
        channel.load_text = channel.intake.read_load((yield channel.intake.load()))
    return channel.load_text


def _good(reply: Any) -> Any:
    if isinstance(reply, PenstockError):
        raise reply
    if isinstance(reply, Exception):
        raise RedisUnavailable(f"Redis refused a command: {reply}; see `penstock doctor`")
    return reply
