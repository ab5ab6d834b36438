"""The two sides of the contract as tests drive them: a Client that submits and a Slot that claims and ends jobs.

Both speak to a real Redis through broker's own commands. Nothing here decides anything; there is no engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from broker import codec, keys, outcome_codec, spec
from broker.answer import Answer
from broker.claimed import Claimed
from broker.connection import Command, Link
from broker.ends import Ended, Fate, Fault
from broker.intake import Intake, new_client
from broker.messages import LANES, Job, Kind, Outcome, Status
from broker.queue import Queue
from broker.spec import Limits, ModelSpec

MODEL = "tiny"
BUNCH, FIRST_BUNCHED = 4, 10  # so many results of one settle lie together, from a client's tenth job on; settle.lua
LIMITS = Limits(max_jobs=10_000, max_bytes=64 << 20, payload_limit_bytes=1 << 20)


def publish(link: Link, limits: Limits = LIMITS) -> str:
    """Publishes the model and its streams; the generation."""
    shape = ModelSpec(name=MODEL, version="1", takes="bytes", inputs=(), outputs=(), max_rows=8)
    Queue(MODEL, "nobody").ensure_groups(link)
    return spec.publish(link, shape, limits)


class Sent(msgspec.Struct, frozen=True):
    """One job that was accepted: where it is, and its bytes."""

    id: str
    lane: int  # 1-3, as on the wire
    entry: str
    blob: bytes


class Client:
    """A producer process: numbers its requests and reads its reply list."""

    def __init__(self, link: Link, name: str | None = None) -> None:
        self.link = link
        self.name = name or new_client()
        self.intake = Intake(MODEL, self.name)
        self._serial = 0

    def blob(
        self, data: bytes = b"sixteen bytes...", *, ttl_s: int = 60, is_stored: bool = True, retries: int = 3
    ) -> bytes:
        """A new job's bytes."""
        self._serial += 1
        head, tail = codec.encode_job_head(
            kind=Kind.BYTES, rows=1, is_one_row=True, is_stored=is_stored, retries=retries, result_ttl_s=ttl_s,
            descriptor=b"", context=None,
        )  # fmt: skip
        return codec.encode_job(head, f"{self.name}-{self._serial}".encode(), tail, data)

    def blobs(self, count: int, data: bytes = b"sixteen bytes...", **options: Any) -> list[bytes]:
        return [self.blob(data, **options) for _ in range(count)]

    def command(self, blobs: Sequence[bytes], *, number: int = 0, lane: str = "normal", **options: Any) -> Command:
        """The submit command; a new request number unless one is given."""
        number = number or self.intake.numbers.take()
        return self.intake.submit(number, "-1", blobs, lane=LANES.index(lane) + 1, **options)

    def send(self, blobs: Sequence[bytes], **options: Any) -> Answer:
        """Submits a chunk and gives the answer, whatever it is."""
        return Answer.read(self.link.call(*self.command(blobs, **options)))

    def submit(self, count: int = 1, data: bytes = b"sixteen bytes...", *, lane: str = "normal",
               delay_ms: int = 0, deadline_ms: int = 0, **options: Any) -> list[Sent]:  # fmt: skip
        """Submits jobs that must all be accepted."""
        blobs = self.blobs(count, data, **options)
        answer = self.send(blobs, lane=lane, delay_ms=delay_ms, deadline_ms=deadline_ms)
        assert (answer.code, answer.accepted) == ("ok", count)
        number = LANES.index(lane) + 1
        return [Sent(id_of(blob), number, answer.entry(index), blob) for index, blob in enumerate(blobs)]

    def cancel(self, job: Sent) -> int:
        return int(self.link.call(*self.intake.cancel(job.id, job.lane, job.entry)))

    def state(self, job: Sent) -> str:
        return self.intake.read_locate(self.link.call(*self.intake.locate(job.id, job.lane, job.entry)))[0]

    def replies(self) -> list[Outcome]:
        """Takes all outcomes that lie in the reply list."""
        elements = self.link.call(*self.intake.drain(10_000)) or []
        return [outcome_codec.decode(frame) for element in elements for frame in outcome_codec.split_frames(element)]

    def result(self, job_id: str) -> Outcome | None:
        (blob,) = self.link.call(*self.intake.results([job_id]))
        return None if blob is None else outcome_codec.decode(blob)


class Slot:
    """One incarnation of a slot: claims, and ends what it claimed."""

    def __init__(self, link: Link, name: str = "box/0.1") -> None:
        self.link = link
        self.name = name
        self.queue = Queue(MODEL, name)

    def claim(self, room: int = 100) -> list[Job]:
        return self.claimed(room).jobs

    def claimed(self, room: int = 100) -> Claimed:
        return self.queue.read_claim(self.link.call(*self.queue.claim(room)))

    def settle(self, jobs: Iterable[Job], data: bytes = b"ok") -> int:
        return int(self.link.call(*self.queue.settle(Ended(job, done(job, data)) for job in jobs)))

    def fail(self, jobs: Iterable[Job], fate: Fate, *, delay_ms: int = 0) -> int:
        faults = [
            Fault.of(job, fate, reason="test", outcome=failed(job, fate), delay_ms=delay_ms) for job in jobs
        ]  # fmt: skip
        return int(self.link.call(*self.queue.fail(faults)))

    def give_back(self, jobs: Iterable[Job], *, marks: int = 0) -> int:
        return int(self.link.call(*self.queue.give_back(((job.lane, job.entry) for job in jobs), marks=marks)))

    def pulse(self, jobs: Iterable[Job] = (), *, ready_ms: int = 0, failing_ms: int = 0, frees: bool = False) -> int:
        """One beat; how many leases were lost."""
        leases = [(job.lane, job.entry) for job in jobs]
        command = self.queue.pulse(
            self.name, leases, ready_ms=ready_ms, failing_ms=failing_ms, frees_place=frees
        )  # fmt: skip
        return int(self.link.call(*command)[1])

    def take_over(self, *names: str, marks: int = 1) -> int:
        return self.queue.take_over(self.link, names, marks=marks)

    def sweep(self, *, lease_ms: int = 15_000, most: int = 500, now_ms: float = 0) -> tuple[int, int, int]:
        returned, deleted, drift = self.link.call(*self.queue.sweep(lease_ms=lease_ms, most=most, now_ms=now_ms))
        return returned, deleted, drift

    def move(self) -> int:
        return int(self.link.call(*self.queue.move()))


# --- what lies in Redis ----------------------------------------------------------------------


def id_of(blob: bytes) -> str:
    return codec.read_head(blob)[0]


def done(job: Job, data: bytes = b"ok") -> bytes:
    """The outcome of a job that gave `data` (as a postprocessed value)."""
    status = int(Status.DONE) | outcome_codec.ONE_ROW | outcome_codec.VALUE
    value = msgspec.msgpack.encode(data)
    return outcome_codec.encode(job.id, status, attempt=job.attempt, timings=(1, 2, 3, 6), data=value)


def failed(job: Job, fate: str) -> bytes:
    if fate == "retry":
        return b""
    return outcome_codec.encode_failure(job, Status[fate.upper()], reason="test", text=f"{fate} on purpose")


def counters(link: Link) -> dict[str, int]:
    raw = link.call("HGETALL", keys.counters(MODEL))
    return {raw[at].decode(): int(raw[at + 1]) for at in range(0, len(raw), 2)}


def counted(link: Link, *names: str) -> tuple[int, ...]:
    found = counters(link)
    return tuple(found.get(name, 0) for name in names)


def lane_key(lane: str | int) -> str:
    """By name, or by the number on the wire."""
    return keys.lane(MODEL, lane if isinstance(lane, str) else LANES[lane - 1])


def depths(link: Link) -> tuple[int, int, int]:
    """Entries of the lanes high, normal, low."""
    high, normal, low = (int(link.call("XLEN", lane_key(name))) for name in LANES)
    return high, normal, low


def delayed(link: Link) -> int:
    assert link.call("ZCARD", keys.delayed(MODEL)) == link.call("HLEN", keys.delayed_bodies(MODEL))
    return int(link.call("ZCARD", keys.delayed(MODEL)))


def leases(link: Link, consumer: str | None = None) -> dict[tuple[int, str], tuple[str, int]]:
    """(lane 1-3, entry) -> (consumer, deliveries) of everything Redis believes to be leased."""
    found = {}
    for lane, name in enumerate(LANES, 1):
        command: Command = ["XPENDING", lane_key(name), keys.GROUP, "-", "+", 100_000]
        for entry, owner, _, count in link.call(*command, *([consumer] if consumer else [])):
            found[lane, entry.decode()] = (owner.decode(), count)
    return found


def pending(link: Link, consumer: str | None = None) -> dict[str, tuple[str, int]]:
    """The same by entry alone: for jobs of one lane, entries of two lanes may be named alike."""
    return {entry: lease for (_, entry), lease in leases(link, consumer).items()}


def groups_consumers(link: Link, lane: str = "normal") -> set[str]:
    return {consumer[1].decode() for consumer in link.call("XINFO", "CONSUMERS", lane_key(lane), keys.GROUP)}


def age(link: Link, jobs: Iterable[Job], consumer: str, *, idle_ms: int) -> None:
    """Makes leases look as if nobody had renewed them for `idle_ms`."""
    for job in jobs:
        link.call("XCLAIM", lane_key(job.lane + 1), keys.GROUP, consumer, 0, job.entry, "IDLE", idle_ms,
                  "RETRYCOUNT", job.deliveries, "JUSTID")  # fmt: skip


def now_ms(link: Link) -> int:
    seconds, micros = link.call("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


def dead_entries(link: Link) -> list[dict[str, bytes]]:
    return [
        {fields[at].decode(): fields[at + 1] for at in range(0, len(fields), 2)}
        for _, fields in link.call("XRANGE", keys.dead(MODEL), "-", "+")
    ]
