"""The frozen structs that cross every boundary: jobs, outcomes, signatures. Data only, no behaviour."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec

from broker.bodies import Reference

LANES = ("high", "normal", "low")
HIGH, LOW = 0, len(LANES) - 1  # a lane is its place in LANES


class Status(IntEnum):
    """Final states of a job, as stored in an outcome's head."""

    DONE = 1
    FAILED = 2
    DEAD = 3
    EXPIRED = 4
    CANCELLED = 5


class Kind(IntEnum):
    """What a job's data is: tensors as the model takes them, or raw input for the artifact's preprocess."""

    TENSORS = 0
    BYTES = 1
    TEXT = 2


class Column(msgspec.Struct, frozen=True, gc=False):
    """One named tensor of a job or an outcome; `shape` is per row, the row axis is left out."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    row_bytes: int


class Signature(msgspec.Struct, frozen=True):
    """The tensors of one job: columns in wire order and the bytes one row takes over all of them."""

    columns: tuple[Column, ...]
    row_bytes: int


class Job(msgspec.Struct, frozen=True, gc=False):
    """One claimed job. `data` is raw little-endian rows, column after column; of a `body` that stands apart, once it was fetched."""

    id: str
    lane: int
    entry: bytes
    lease: bytes  # lane and entry: what a slot keeps the job under, see `lease`
    kind: int
    rows: int
    is_one_row: bool
    signature: Signature
    data: bytes
    offset: int  # where the first row starts in `data`
    result_ttl_s: int
    is_stored: bool
    retries: int
    attempt: int
    deliveries: int  # Redis' own count: 1 on the first delivery, +1 for each death under it
    size: int  # bytes as accounted in Redis, those of its body among them
    submitted_ms: int  # Redis time
    deadline_ms: int  # Redis time, 0 for none
    context: Any = None
    body: Reference | None = None


class Timings(msgspec.Struct, frozen=True, gc=False):
    """Milliseconds one job spent: in Redis, in the slot before its forward, in the forward, and in all."""

    queue_ms: float
    batch_wait_ms: float
    forward_ms: float
    total_ms: float


class Outcome(msgspec.Struct, frozen=True):
    """How one job ended. `columns` and `data` are set when done with tensors, `value` when postprocessed."""

    id: str
    status: Status
    attempt: int
    timings: Timings
    version: str = ""
    rows: int = 0
    is_one_row: bool = True
    columns: tuple[Column, ...] = ()
    data: bytes = b""
    note: dict[str, Any] = {}
