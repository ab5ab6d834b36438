"""A batch: what one forward takes. Data only; `batcher` makes it, `halves` cuts it."""

from __future__ import annotations

import msgspec

from broker.messages import Job
from broker.timetable import Dims


class Piece(msgspec.Struct, frozen=True, gc=False):
    """Rows `start` to `stop` of a job."""

    job: Job
    start: int
    stop: int


class Batch(msgspec.Struct, frozen=True):
    """Pieces of one shape bucket, `rows` rows in all, padded to `bucket` rows and `dims`."""

    pieces: list[Piece]
    rows: int
    bucket: int
    dims: Dims


class Coming(msgspec.Struct, frozen=True):
    """The batch that would be packed now: its lane, rows and shape, how long it takes, whether no more rows could join, and the
    `most` it might have."""

    lane: int
    rows: int
    dims: Dims
    ms: float
    is_full: bool
    most: int
