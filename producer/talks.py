"""Conversations with Redis, written once for the sync and the asyncio client: generators that yield commands and are sent
their replies. No I/O and no waiting here; `line` and `aio` hold the connection and drive them.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeAlias, TypeVar

import msgspec

from broker import bodies_sweep, durability, keys, refusals
from broker.answer import Answer
from broker.connection import Command
from broker.errors import PenstockError, RedisUnavailable
from broker.intake import state_of
from broker.queue import INLINE_LIMIT_BYTES
from broker.spec import FIELDS, read
from producer.channel import Channel
from producer.search import Search
from producer.tickets import Parcel, Ticket

T = TypeVar("T")
Talk: TypeAlias = Generator[Sequence[Command], list[Any], T]

FETCH_AT_ONCE = 256
GRACE_S = 0.2  # for an outcome that somebody has read and not yet handed over


def learn_spec(channel: Channel) -> Talk[None]:
    """Reads the model's spec, and how Redis proves a submit where that is asked for. Raises UnknownModel, ConfigError."""
    probe = durability.probe() if channel.durability == "fsync" else []
    values, *replies = yield [("HMGET", keys.spec(channel.model), *FIELDS), *probe]
    if probe:
        proof = durability.read_probe(replies)
        if proof is None:
            replies = yield durability.test(channel.model, channel.client)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise refusals.by_redis(reply, channel.model)
            durability.read_test(replies)
        channel.proof = proof or "waitaof"
    channel.learn(read(channel.model, _good(values)))


def submit(channel: Channel, parcels: Sequence[Parcel], *, lane: int, delay_ms: int, deadline_ms: int) -> Talk[Answer]:
    """Sends parcels of the same terms and generation as one request. Raises QueueFull when Redis is out of memory, RedisUnavailable."""
    intake = channel.intake
    blobs = parcels[0].blobs
    dedupe = parcels[0].dedupe
    if len(parcels) > 1:
        blobs = [blob for parcel in parcels for blob in parcel.blobs]
        if any(parcel.dedupe for parcel in parcels):
            none = ("", "")
            dedupe = [pair for parcel in parcels for pair in parcel.dedupe or [none] * len(parcel.blobs)]
    apart = [parcel for parcel in parcels if parcel.bodies]
    # In front of their jobs, in one breath; outside Redis they were written before.
    writes = [
        one for parcel in apart if parcel.apart.is_redis for one in bodies_sweep.write(channel.model, parcel.bodies)
    ]
    number = intake.numbers.take()
    command = intake.submit(
        number, parcels[0].generation, blobs, lane=lane, delay_ms=delay_ms, deadline_ms=deadline_ms, dedupe=dedupe,
        token=apart[0].apart.token if apart else "",
    )  # fmt: skip
    proof = durability.prove(channel.proof, channel.model, channel.client) if channel.proof is not None else []
    try:
        if channel.wants_ready_check:
            reply, *rest = (yield [*writes, command, *proof, *intake.newest_ready()])[len(writes) :]
            channel.note_ready(rest[len(proof) :])
        else:
            reply, *rest = (yield [*writes, command, *proof])[len(writes) :]
    finally:
        intake.numbers.answered(number)
    if isinstance(reply, Exception):
        raise refusals.by_redis(reply, channel.model)
    answer = Answer.read(reply)
    if channel.proof is not None and answer.accepted:
        why = durability.doubt(channel.proof, rest[: len(proof)])
        if why:
            channel.proof = None  # another Redis by now, or set otherwise: asked again before the next submit
            return msgspec.structs.replace(answer, doubt=why)
    return answer


def note_bodies(channel: Channel, parcel: Parcel) -> Talk[None]:
    """Tells Redis of bodies about to be written outside it. Raises QueueFull when it is out of memory, RedisUnavailable."""
    (reply,) = yield [bodies_sweep.note(channel.model, parcel.apart.token, parcel.bodies)]
    if isinstance(reply, Exception):
        raise refusals.by_redis(reply, channel.model)


def look(channel: Channel, ticket: Ticket) -> Talk[tuple[str, list[bytes]]]:
    """Where a job is, when its reply does not come: (state, outcomes found, its own first).

    Another client's job is watched from here on. The state is `unknown` only when the job is nowhere; `searching` when it
    has not been found yet: the search goes on with the next call, so that it holds up nobody else on the line.
    """
    intake = channel.intake
    locate = intake.locate(ticket._job, *ticket._place)
    if ticket._is_foreign:
        channel.mailbox.expect((ticket,))
        watched, reply = yield [intake.watch(ticket._job), locate]
        if _good(watched) is not None:
            return state_of(watched), [watched]
    else:
        (reply,) = yield [locate]
    state, outcome = intake.read_locate(_good(reply))
    if outcome is not None:
        return state, [outcome, *(yield from _others(channel, outcome))]
    if state == "unknown":
        state = yield from _search(channel, ticket)
    return state, []


def _others(channel: Channel, outcome: bytes) -> Talk[list[bytes]]:
    """A stored outcome whose reply did not come means that replies were lost: fetches those of other jobs too."""
    found: list[bytes] = []
    if len(outcome) > INLINE_LIMIT_BYTES:  # large ones are fetched one by one, when asked for
        return found
    jobs = channel.mailbox.all()
    for at in range(0, len(jobs), FETCH_AT_ONCE):
        (replies,) = yield [channel.intake.results(jobs[at : at + FETCH_AT_ONCE])]
        there = [reply for reply in _good(replies) if reply is not None]
        found += there
        if 2 * len(there) < FETCH_AT_ONCE:
            break
    return found


def _search(channel: Channel, ticket: Ticket) -> Talk[str]:
    """Reads the next page of each lane for a job that is nowhere else; remembers the entry when it finds it."""
    search = ticket._search
    if search is not None and search.is_over:
        ticket._search = None  # asked again, it begins anew: the id may be queued by then
        return "unknown"
    if search is None:
        search = ticket._search = Search(ticket._job)
    replies = yield search.next(channel.intake)
    lane, entry = search.read(channel.intake, [_good(reply) for reply in replies])
    if entry:
        ticket._lane, ticket._found = lane, entry
    return "searching"


def cancel(channel: Channel, ticket: Ticket) -> Talk[str]:
    """`cancelled`, or why not: `ended`, or `unknown` and `searching` as in `look`."""
    intake = channel.intake
    (done,) = yield [intake.cancel(ticket._job, *ticket._place)]
    if _good(done):
        return "cancelled"
    (reply,) = yield [intake.locate(ticket._job, *ticket._place)]
    state, outcome = intake.read_locate(_good(reply))
    if outcome is not None:
        return "ended"
    return (yield from _search(channel, ticket)) if state == "unknown" else "searching"


def stored(channel: Channel, ticket: Ticket) -> Talk[bytes | None]:
    """The stored outcome of a job whose reply was only a notice, None when it is gone."""
    (reply,) = yield [channel.intake.large_result(ticket._job)]
    outcome: bytes | None = _good(reply)
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
        raise refusals.denied(reply) or RedisUnavailable(f"Redis refused a command: {reply}; see `penstock doctor`")
    return reply
