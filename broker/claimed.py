"""What a claim brings: Redis' answer as jobs, and as leases whose bytes are garbled or must not be touched any more. Pure.

`Lease` names one claimed entry that is no job.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import msgspec

from broker import codec
from broker.errors import DecodeError
from broker.messages import Job

MOST_MARKS = 3  # a job under which so many engines or slots died is dead; claim.lua has it too

_META = re.compile(rb"(\d{1,20}) (\d{1,20}) (\d{1,20})")  # deadline, attempt, first submit; finish.lua reads it too


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


def read_claim(reply: Any) -> Claimed:
    """Of claim.lua: returned leases first, then lanes by priority."""
    now_ms, returned, *lanes = reply
    jobs: list[Job] = []
    broken: list[Lease] = []
    for at in range(0, len(returned), 4):
        lane, deliveries, entry, fields = returned[at : at + 4]
        if deliveries > MOST_MARKS:  # not touched any more: it may be the decoding that kills
            broken.append(_worn_out(lane - 1, entry, fields, deliveries))
        else:
            _decode(lane - 1, entry, fields, deliveries, jobs, broken)
    for lane, entries in enumerate(lanes):
        for entry, fields in entries:
            _decode(lane, entry, fields, 1, jobs, broken)
    return Claimed(now_ms=int(now_ms), jobs=jobs, broken=broken)


def read_block(reply: Any, lanes: Sequence[str]) -> Claimed:
    """Of XREADGROUP over some of `lanes`; it tells no time, so that is 0."""
    jobs: list[Job] = []
    broken: list[Lease] = []
    for stream, entries in reply or ():
        lane = lanes.index(stream.decode())
        for entry, fields in entries:
            _decode(lane, entry, fields, 1, jobs, broken)
    jobs.sort(key=attrgetter("lane"))
    return Claimed(now_ms=0, jobs=jobs, broken=broken)


def with_body(job: Job, body: bytes) -> Job:
    """The job with its data at hand, as if it had travelled with it."""
    return msgspec.structs.replace(job, data=body, offset=0)


def read_meta(entry: bytes, fields: Sequence[bytes]) -> tuple[int, int, int]:
    """What stands beside a job in its lane: deadline (0: none), attempt, first submit; in Redis' ms."""
    if len(fields) > 2 and (meta := _META.fullmatch(fields[3])):  # else as if there were none, as in finish.lua
        return int(meta[1]), min(int(meta[2]), 255), int(meta[3])
    return 0, 1, int(entry.partition(b"-")[0])


def _decode(
    lane: int, entry: bytes, fields: list[bytes], deliveries: int, jobs: list[Job], broken: list[Lease]
) -> None:
    deadline_ms, attempt, submitted_ms = read_meta(entry, fields)
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


def _worn_out(lane: int, entry: bytes, fields: list[bytes], deliveries: int) -> Lease:
    job_id, ttl_s, is_stored = _head(fields[1])
    error = f"{deliveries - 1} slots or engines died while they held this job"
    return Lease(lane, entry, deliveries, job_id, ttl_s if is_stored else 0, 1, error, "crash_marks")


def _head(blob: bytes) -> tuple[str, int, bool]:
    """Id, result_ttl_s and whether the result is stored, of a job whose bytes may be garbled."""
    try:
        return codec.read_head(blob)
    except DecodeError:
        return "unreadable-0", 0, False
