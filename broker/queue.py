"""The worker's side of the contract: builds the commands that claim, settle, fail and return, and reads their answers.

No I/O here: the slot sends the commands over its Link and may have several under way. `Lease` names one claimed entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, Literal

import msgspec

from broker import codec, keys
from broker.connection import Command, Link, evalsha
from broker.errors import DecodeError
from broker.messages import LANES, Job

INLINE_LIMIT_BYTES = 4096
DEAD_CAP = 10_000
LOWEST_FIRST_EVERY = 8  # every 8th claim starts at the lowest lane, so that none starves
TAKE_OVER_AT_ONCE = 500
RECOUNT_BELOW = 2_000
MOST_MARKS = 3  # a job under which so many engines or slots died is dead; claim.lua has it too

_META = re.compile(rb"(\d{1,20}) (\d{1,20}) (\d{1,20})")  # deadline, attempt, first submit; finish.lua reads it too

Fate = Literal["retry", "failed", "dead", "expired"]


class Lease(msgspec.Struct, frozen=True, gc=False):
    """One claimed entry that could not be decoded, or must not be: enough to fail it by name."""

    lane: int
    entry: bytes
    deliveries: int
    id: str
    ttl_s: int
    attempt: int
    error: str
    reason: str = "undecodable"


class Claimed(msgspec.Struct, frozen=True):
    """What a claim brought: Redis' time, jobs in lane order, and leases whose bytes are garbled."""

    now_ms: int
    jobs: list[Job]
    broken: list[Lease]


class Ended(msgspec.Struct, frozen=True, gc=False):
    """One job's outcome, encoded, ready to settle."""

    job: Job
    outcome: bytes


class Fault(msgspec.Struct, frozen=True, gc=False):
    """One job's failure: what to do with it, and the outcome if that is final."""

    lane: int
    entry: bytes
    deliveries: int
    id: str
    ttl_s: int
    fate: Fate
    delay_ms: int
    reason: str
    outcome: bytes

    @classmethod
    def of(cls, job: Job, fate: Fate, *, reason: str, outcome: bytes = b"", delay_ms: int = 0) -> Fault:
        ttl_s = job.result_ttl_s if job.is_stored else 0
        return cls(job.lane, job.entry, job.deliveries, job.id, ttl_s, fate, delay_ms, reason, outcome)


class Queue:
    """Commands of one consumer (a slot's incarnation) on one model's queue."""

    def __init__(self, model: str, consumer: str) -> None:
        self.model = model
        self.consumer = consumer
        self.lanes = [keys.lane(model, name) for name in LANES]
        self._finish_keys = [keys.counters(model), keys.stored(model), keys.watchers(model), keys.moved(model)]
        self._finish_args = [keys.of_model(model), keys.REPLY_TTL_MS, keys.REPLY_CAP, INLINE_LIMIT_BYTES]
        self._claims = 0

    # --- claiming ---------------------------------------------------------------------------

    def ensure_groups(self, link: Link) -> None:
        """Creates the streams and their group where they are missing; where none is, this passes at maxmemory."""
        found = link.call_all([("XINFO", "GROUPS", lane) for lane in self.lanes])
        for lane, groups in zip(self.lanes, found, strict=True):
            if isinstance(groups, Exception) or all(group[1] != keys.GROUP.encode() for group in groups):
                (reply,) = link.call_all([("XGROUP", "CREATE", lane, keys.GROUP, "0", "MKSTREAM")])
                if isinstance(reply, Exception) and "BUSYGROUP" not in str(reply):
                    raise reply

    def claim(self, room: int) -> Command:
        """Claims up to `room` jobs without blocking: returned leases first, then lanes by priority."""
        self._claims += 1
        order = "321" if self._claims % LOWEST_FIRST_EVERY == 0 else "123"
        return self._claim(room, order)

    def reclaim(self, room: int) -> Command:
        """Claims up to `room` returned leases only; for `read_claim`."""
        return self._claim(room, "")

    def _claim(self, room: int, order: str) -> Command:
        args: list[Any] = [*self._finish_args, self.consumer, room, order]
        return evalsha("claim", self._finish_keys + self.lanes, args)

    def read(self, lane: int, count: int) -> Command:
        """Reads up to `count` fresh jobs of one lane, without blocking and unfiltered; for `read_block`."""
        return [
            "XREADGROUP", "GROUP", keys.GROUP, self.consumer, "COUNT", count, "STREAMS", self.lanes[lane], ">",
        ]  # fmt: skip

    def read_claim(self, reply: Any) -> Claimed:
        """Reads the reply of `claim`."""
        now_ms, returned, *lanes = reply
        jobs: list[Job] = []
        broken: list[Lease] = []
        for at in range(0, len(returned), 4):
            lane, deliveries, entry, fields = returned[at : at + 4]
            if deliveries > MOST_MARKS:  # not touched any more: it may be the decoding that kills
                broken.append(self._worn_out(lane - 1, entry, fields, deliveries))
            else:
                self._decode(lane - 1, entry, fields, deliveries, jobs, broken)
        for lane, entries in enumerate(lanes):
            for entry, fields in entries:
                self._decode(lane, entry, fields, 1, jobs, broken)
        return Claimed(now_ms=int(now_ms), jobs=jobs, broken=broken)

    def block(self, count: int, block_ms: int) -> Command:
        """Waits for jobs: XREADGROUP over all lanes. COUNT is per stream, so up to three times `count` may come."""
        return [
            "XREADGROUP", "GROUP", keys.GROUP, self.consumer, "COUNT", count, "BLOCK", block_ms,
            "STREAMS", *self.lanes, ">", ">", ">",
        ]  # fmt: skip

    def read_block(self, reply: Any) -> Claimed:
        """Reads the reply of `block`; Redis' time is taken from the newest entry, 0 when nothing came."""
        jobs: list[Job] = []
        broken: list[Lease] = []
        for stream, entries in reply or ():
            lane = self.lanes.index(stream.decode())
            for entry, fields in entries:
                self._decode(lane, entry, fields, 1, jobs, broken)
        jobs.sort(key=attrgetter("lane"))
        return Claimed(now_ms=0, jobs=jobs, broken=broken)

    def _decode(
        self, lane: int, entry: bytes, fields: list[bytes], deliveries: int, jobs: list[Job], broken: list[Lease]
    ) -> None:
        attempt, deadline_ms, submitted_ms = 1, 0, int(entry.partition(b"-")[0])
        if len(fields) > 2 and (meta := _META.fullmatch(fields[3])):  # else as if there were none, as in finish.lua
            deadline_ms, attempt, submitted_ms = int(meta[1]), min(int(meta[2]), 255), int(meta[3])
        blob = fields[1]
        try:
            jobs.append(
                codec.decode_job(
                    blob, entry=entry, lane=lane, deliveries=deliveries, submitted_ms=submitted_ms,
                    attempt=attempt, deadline_ms=deadline_ms,
                )
            )  # fmt: skip
        except DecodeError as error:
            job_id, ttl_s, is_stored = _head(blob)
            broken.append(Lease(lane, entry, deliveries, job_id, ttl_s if is_stored else 0, attempt, str(error)))

    def _worn_out(self, lane: int, entry: bytes, fields: list[bytes], deliveries: int) -> Lease:
        job_id, ttl_s, is_stored = _head(fields[1])
        error = f"{deliveries - 1} slots or engines died while they held this job"
        return Lease(lane, entry, deliveries, job_id, ttl_s if is_stored else 0, 1, error, "crash_marks")

    # --- ending -----------------------------------------------------------------------------

    def settle(self, ended: Iterable[Ended]) -> Command:
        """Ends done jobs. The reply is how many were ours to end."""
        lanes: tuple[list[Ended], ...] = ([], [], [])
        for one in ended:
            lanes[one.job.lane].append(one)
        args: list[Any] = [*self._finish_args, *map(len, lanes)]
        args += [one.job.entry for lane in lanes for one in lane]
        frame = codec.FRAME.pack
        for lane in lanes:
            for one in lane:
                job, outcome = one.job, one.outcome
                ttl_s = job.result_ttl_s if job.is_stored else 0
                args += (job.id, job.size, ttl_s, frame(len(outcome)) + outcome)
        return evalsha("settle", self._finish_keys + self.lanes, args)

    def fail(self, faults: Iterable[Fault]) -> Command:
        """Fails, buries or postpones jobs, fenced by owner and delivery count."""
        args: list[Any] = [*self._finish_args, self.consumer, DEAD_CAP]
        for one in faults:
            args += (
                one.lane + 1, one.entry, one.deliveries, one.id, one.ttl_s, one.fate, one.delay_ms, one.reason,
                one.outcome,
            )  # fmt: skip
        model = self.model
        return evalsha(
            "fail",
            [*self._finish_keys, *self.lanes, keys.delayed(model), keys.delayed_bodies(model), keys.dead(model)],
            args,
        )

    def give_back(self, leases: Iterable[tuple[int, bytes]], *, marks: int) -> Command:
        """Returns leases as (lane, entry): unharmed with marks=0, with a crash mark with marks=1."""
        args: list[Any] = [self.consumer, marks]
        for lane, entry in leases:
            args += (lane + 1, entry)
        return evalsha("give_back", self.lanes, args)

    # --- keeping ----------------------------------------------------------------------------

    def pulse(
        self, slot: str, leases: Iterable[tuple[int, bytes]], *, ready_ms: int, failing_ms: int, frees_place: bool
    ) -> Command:
        """One beat: readiness and leases. The reply is [Redis time in ms, leases lost]."""
        args: list[Any] = [slot, self.consumer, ready_ms, failing_ms, int(frees_place)]
        for lane, entry in leases:
            args += (lane + 1, entry)
        model = self.model
        return evalsha("pulse", [keys.ready(model), keys.failing(model), keys.retiring(model), *self.lanes], args)

    def pending(self, count: int = 2000) -> list[Command]:
        """Asks for the ids Redis believes this consumer holds, a command per lane."""
        return [("XPENDING", lane, keys.GROUP, "-", "+", count, self.consumer) for lane in self.lanes]

    def own_leases(self, held: int) -> list[Command]:
        """As `pending`, for `held` leases and more, behind a write that changes nothing and passes at maxmemory: its answer is
        an error where nothing can be written."""
        return [("PERSIST", keys.counters(self.model)), *self.pending(2000 + held)]

    def take_over(self, link: Link, dead_consumers: Sequence[str], *, marks: int) -> int:
        """Returns all leases of consumers proven dead, then deletes them. The number of leases returned."""
        total = 0
        while dead_consumers:
            moved, left = link.script("take_over", self.lanes, [marks, TAKE_OVER_AT_ONCE, *dead_consumers])
            total += moved
            if not left:
                break
        return total

    def consumers(self, link: Link) -> set[str]:
        """Names of all consumers of the group."""
        names: set[str] = set()
        for reply in link.call_all([("XINFO", "CONSUMERS", lane, keys.GROUP) for lane in self.lanes]):
            if not isinstance(reply, Exception):
                names.update(consumer[1].decode() for consumer in reply)
        return names - {keys.RETURNED}

    def sweep(self, *, lease_ms: int, most: int = 500, is_recounting: bool = True) -> Command:
        """Returns leases nobody renews; the reply is [returned, consumers deleted, bytes the counter was off by].

        `is_recounting` also reads a short queue whole, to put the byte counter right.
        """
        model = self.model
        return evalsha(
            "sweep",
            [*self.lanes, keys.counters(model), keys.delayed(model), keys.delayed_bodies(model)],
            [lease_ms, most, RECOUNT_BELOW if is_recounting else -1],
        )

    def move(self, most: int = 200) -> Command:
        """Moves delayed jobs that are due into their lanes; the reply is how many."""
        model = self.model
        return evalsha(
            "move",
            [keys.delayed(model), keys.delayed_bodies(model), keys.moved(model), *self.lanes],
            [most, keys.MOVED_TTL_MS],
        )

    def ask_to_retire(self, slot: str, *, place_ttl_ms: int, overdue_ms: int = 0) -> Command:
        """Asks for a place among those retiring; the reply is 1 when granted. The longest overdue goes first."""
        model = self.model
        return evalsha(
            "retire",
            [keys.ready(model), keys.retiring(model), keys.failing(model), keys.due(model)],
            [slot, place_ttl_ms, overdue_ms, keys.wanted(model)],
        )


def _head(blob: bytes) -> tuple[str, int, bool]:
    """Id, result_ttl_s and whether the result is stored, of a job whose bytes may be garbled."""
    try:
        return codec.read_head(blob)
    except DecodeError:
        return "unreadable-0", 0, False
