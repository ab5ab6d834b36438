"""What a client remembers of a submitted job: a ticket, and the parcel it travelled in. Pure; the clients do the waiting."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from broker import codec
from broker.answer import Answer
from broker.bodies import Body
from broker.errors import ResultExpired, ResultTimeout, SubmitNotDurable
from broker.intake import CHUNK_BYTES, CHUNK_JOBS, FOLDER_BYTES, client_of
from producer.options import check_key, digest

if TYPE_CHECKING:
    from producer.apart import Apart
    from producer.channel import Channel, Packer
    from producer.inputs import Fitted
    from producer.search import Search


SPEC_TRIES = 5
LOOK_FIRST_AFTER_S = 30.0  # reply lists live a minute: an older job is looked up before its reply is awaited
LOOK_MOST_S = 5.0  # between two looks for a job whose reply does not come


class Sink:
    """Collects tickets in the order their outcomes come; what `map` waits for when order does not matter."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done: deque[Ticket] = deque()

    @property
    def _blob(self) -> object | None:
        return self.done or None


class Ticket(msgspec.Struct, eq=False, gc=False):
    """One submitted job, as its client sees it. The public handles are made of it.

    Tens of thousands live at once, and none of them is what keeps a cycle alive once its outcome has come, so the garbage
    collector need not walk them: that alone was a sixth of a flood's time.
    """

    _producer: Any
    _channel: Channel
    _job: str
    _lane: int
    warning: str | None = None  # what the caller should know though the job was taken
    _sink: Sink | None = None
    _blob: bytes | None = None  # the outcome, once it has come
    _answer: Answer | None = None
    _at: int = 0
    _since: float = 0.0
    _found: str = ""  # entry, where a search found it
    _search: Search | None = None  # under way, while it is looked for by its id alone

    @property
    def id(self) -> str:
        """`model:client-number`: what `Producer.result` takes, in any process."""
        return f"{self._channel.model}:{self._job}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    @property
    def _place(self) -> tuple[int, str]:
        """(lane, entry) as far as known, else (0, '')."""
        entry = self._found or (self._answer.entry(self._at) if self._answer is not None else "")
        return (self._lane, entry) if entry else (0, "")

    @property
    def _is_foreign(self) -> bool:
        """Whether its outcome goes to another client: submitted elsewhere, or before a fork."""
        return client_of(self._job) != self._channel.client

    def _is_late_or_foreign(self, now: float) -> bool:
        """Whether it should be looked up before its reply is awaited."""
        return self._is_foreign or now - self._since > LOOK_FIRST_AFTER_S


class Parcel:
    """Jobs of one model, lane and timing that travel together, in order; never split, so that a prefix is a prefix."""

    __slots__ = (
        "apart",
        "blobs",
        "bodies",
        "borrows",
        "dedupe",
        "folder_bytes",
        "generation",
        "inputs",
        "is_awaited",
        "sink",
        "size",
        "spare",
        "tickets",
    )

    def __init__(self, sink: Sink | None = None, *, borrows: bool = False) -> None:
        """`borrows`: bodies are the caller's own arrays; none of its code runs before they are written."""
        self.sink = sink
        self.borrows = borrows
        self.inputs: list[Any] = []
        self.blobs: list[bytes] = []
        self.tickets: list[Any] = []
        self.dedupe: list[tuple[str, str]] = []
        self.bodies: dict[str, Body] = {}  # that stand apart, by name: the id of their job
        self.spare: list[str] = []  # names of those written for jobs that had been queued before
        self.size = 0  # bytes of jobs, and of their bodies where these are not files
        self.folder_bytes = 0  # of bodies that are
        self.generation = ""  # of the spec that all of it was packed under
        self.apart: Apart  # that spec's, from the first job on

    def pack(
        self, kind: type[Ticket], producer: Any, channel: Channel, packer: Packer, inputs: Any, key: str | None
    ) -> None:
        """Checks one job's inputs and takes it in, under a ticket of the given kind. Raises InvalidInput."""
        if not self.blobs:
            self._begin(channel)
        elif channel.published is None or self.generation != channel.published.generation:
            self.repack(channel, packer)
        form = channel.form
        assert form is not None
        fitted = form.fit(inputs)
        job = producer._numbers.next()
        blob = self._pack(packer, fitted, job)
        ticket = kind(producer, channel, job, packer.options.lane, fitted.warning, self.sink)
        if key is not None:
            self.dedupe.append((check_key(key), digest(fitted, key)))
        self.inputs.append(inputs)
        self.blobs.append(blob)
        self.tickets.append(ticket)
        self.size += len(blob)

    def _begin(self, channel: Channel) -> None:
        assert channel.published is not None
        self.generation = channel.published.generation
        self.apart = channel.apart

    def _pack(self, packer: Packer, fitted: Fitted, job: str) -> bytes:
        apart = self.apart
        if not apart.limit_bytes or not apart.is_large(fitted.data):
            return packer.pack(fitted, job)
        blob, self.bodies[job] = packer.pack_apart(fitted, job, apart.token, borrows=self.borrows)
        self._count(len(self.bodies[job]))
        return blob

    def _count(self, body_bytes: int) -> None:
        if self.apart.is_folder:
            self.folder_bytes += body_bytes
        else:  # a store behind a URL takes its time for each, and no job is queued before all are written
            self.size += body_bytes

    @property
    def is_full(self) -> bool:
        """Whether it is to be sent before it takes another job."""
        return len(self.tickets) == CHUNK_JOBS or self.size >= CHUNK_BYTES or self.folder_bytes >= FOLDER_BYTES

    def drop(self, count: int) -> None:
        """Takes the first `count` jobs away."""
        self.size -= sum(map(len, self.blobs[:count]))
        for name in [codec.read_head(blob)[0] for blob in self.blobs[:count]] if self.bodies else ():
            self._count(-len(self.bodies.pop(name, b"")))
        for part in (self.inputs, self.blobs, self.tickets, self.dedupe):
            del part[:count]

    def repack(self, channel: Channel, packer: Packer) -> None:
        """Checks and packs all inputs again, after the model's spec changed. Raises InvalidInput."""
        self._begin(channel)
        form = channel.form
        assert form is not None
        self.bodies.clear()
        self.size = self.folder_bytes = 0
        self.blobs = [
            self._pack(packer, form.fit(inputs), ticket._job)
            for inputs, ticket in zip(self.inputs, self.tickets, strict=True)
        ]
        self.size += sum(map(len, self.blobs))

    def accept(self, channel: Channel, answer: Answer, offset: int = 0) -> list[Any]:
        """Marks what the answer accepted as queued, takes it out and gives it back. The parcel begins at `offset`."""
        count = max(0, min(len(self.tickets), answer.accepted - offset))
        taken = self.tickets[:count]
        now = time.monotonic()
        for at, ticket in enumerate(taken, offset):
            ticket._answer = answer
            ticket._at = at
            ticket._since = now
        if channel.no_ready is not None:
            for ticket in taken:
                ticket.warning = ticket.warning or channel.no_ready
        mailbox = channel.mailbox
        for index, job in answer.duplicates.items():
            if offset <= index < offset + count:
                ticket = taken[index - offset]
                mailbox.forget(ticket)
                if ticket._job in self.bodies and ticket._job != job:
                    self.spare.append(ticket._job)
                ticket._job, ticket._answer = job, None
                taken[index - offset] = mailbox.known(ticket)
        self.drop(count)
        return taken


def gone(ticket: Ticket) -> ResultExpired:
    """The error of a job that is neither queued nor ended in Redis."""
    return ResultExpired(
        f"no job and no result {ticket.id}: the id is unknown, or its result is past its TTL, or Redis lost it (it was "
        "emptied, or failed over); submit again, with a longer result_ttl_s if it was read too late"
    )


def not_found_yet(ticket: Ticket) -> ResultTimeout:
    """The error of a job that must be found first, and was not in time among very many."""
    return ResultTimeout(
        f"job {ticket.id} was not found yet among those that wait; nothing was changed: ask again (the search goes on where "
        "it stopped), or use the handle that submitted it"
    )


def not_durable(ticket: Ticket, answer: Answer) -> SubmitNotDurable:
    """The error of jobs that are queued and not proven to be on disk; `ticket` is the last one of them."""
    return SubmitNotDurable(
        f"job {ticket.id} and those before it in this call are queued, and not proven to be on Redis' disk ({answer.doubt}); "
        "they run unless its machine fails: keep their handles (error.accepted), do not submit them again",
        job_id=ticket.id,
    )


def late(ticket: Ticket, timeout: float | None, state: str) -> ResultTimeout:
    """The error of a wait that ended before the job did; `state` is the pool's."""
    return ResultTimeout(
        f"job {ticket.id} has no result after {timeout or 0:g} s ({state}); it goes on: wait again, raise the timeout, "
        "or see `penstock status`, which says whether to scale or to resume"
    )
