"""A batch: what one forward takes, or a chain of them; and what it is made of. Data only; `batcher` makes it, `halves` cuts it."""

from __future__ import annotations

import enum

import msgspec

from broker.messages import LOW, Job
from broker.timetable import Dims


class Piece(msgspec.Struct, frozen=True, gc=False):
    """Rows `start` to `stop` of a job."""

    job: Job
    start: int
    stop: int


class Batch(msgspec.Struct, frozen=True):
    """Pieces of one shape bucket, `rows` rows in all, padded to `bucket` rows and `dims`. `forwards`: how many it is run in."""

    pieces: list[Piece]
    rows: int
    bucket: int
    dims: Dims
    forwards: int = 1

    @property
    def lane(self) -> int:
        """Which began it: of lower ones it has company."""
        return self.pieces[0].job.lane

    @property
    def is_low(self) -> bool:
        """Whether all of it is of the low lane; jobs of other lanes that joined stand last."""
        return self.lane == self.pieces[-1].job.lane == LOW

    @property
    def forward_rows(self) -> int:
        """Padded rows of one forward."""
        return self.bucket // self.forwards


class Soon(enum.Enum):
    """In place of a batch: one comes as soon as Redis has answered."""

    SOON = enum.auto()


SOON = Soon.SOON


class Coming(msgspec.Struct, frozen=True):
    """The batch that would be packed now: its lane, rows and shape, how long it takes, whether no more rows could join, the `most`
    it might have, and in how many forwards it runs."""

    lane: int
    rows: int
    dims: Dims
    ms: float
    is_full: bool
    most: int
    forwards: int = 1


class InHand:
    """A job in hand: its shape bucket, the first row not yet run, and whether another shape overtook it already."""

    __slots__ = ("dims", "job", "start", "was_passed")

    def __init__(self, job: Job, dims: Dims) -> None:
        self.job = job
        self.dims = dims
        self.start = 0
        self.was_passed = False

    @property
    def rows_left(self) -> int:
        return self.job.rows - self.start
