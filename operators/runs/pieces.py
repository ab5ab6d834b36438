"""A chunk of a run as jobs: what each carries, what it is called, and what is made of one that failed. Pure: submits nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from broker.messages import LANES, LOW
from operators.runs.data.binding import Group
from operators.runs.data.scored import Page
from producer.options import Sealed

LANE = LANES[LOW]
MOST_LOSSES = 20  # of one piece: results that were gone before they were read, cancelled jobs
Inputs: TypeAlias = Any  # what a producer takes as one job's


class Scoring(msgspec.Struct, eq=False):
    """A chunk under way, or those rows of one that are tried again: `places` in the chunk then. `left`: rows without an answer or an error.
    `finish` makes the part's table of the page, for the run's version."""

    index: int
    first_row: int
    rows: int
    page: Page
    keys: pa.Table
    left: int
    places: NDArray[np.int64] | None
    finish: Callable[[str], pa.Table]
    failed_before: int = 0

    @property
    def is_done(self) -> bool:
        return self.left == 0

    def row(self, at: int) -> int:
        """The number in the input of a row of the page."""
        return self.first_row + (at if self.places is None else int(self.places[at]))


class Piece(msgspec.Struct, eq=False):
    """Rows that travel as one job: [start, stop) of a group's. `losses`: how often it was submitted and came to nothing."""

    scoring: Scoring
    group: Group
    start: int
    stop: int
    losses: int = 0

    @property
    def rows(self) -> NDArray[np.int64]:
        """Their places in the chunk."""
        return self.group.rows[self.start : self.stop]

    @property
    def count(self) -> int:
        return self.stop - self.start

    @property
    def inputs(self) -> Inputs:
        """One job's inputs. Of bytes or text, one row's."""
        if isinstance(self.group.inputs, list):
            return self.group.inputs[self.start]
        arrays = {name: array[self.start : self.stop] for name, array in self.group.inputs.items()}
        return next(iter(arrays.values())) if len(arrays) == 1 else arrays

    @property
    def size_bytes(self) -> int:
        if isinstance(self.group.inputs, list):
            return len(self.group.inputs[self.start])
        return sum(array[self.start : self.stop].nbytes for array in self.group.inputs.values())

    def key(self, run: str, round: str) -> Sealed:
        """The idempotency key. Submitted again, by this program or its successor, it is the same job, while that is known: `round`
        is that of the run, `losses` begins a new job. Groups of one chunk share no rows, so the first row tells them apart."""
        first = self.scoring.row(int(self.group.rows[self.start]))
        return Sealed(f"run/{run}/{round}/{first}+{self.count}/{self.losses}")

    def halves(self) -> tuple[Piece, Piece]:
        """Of one that failed and has several rows: the row at fault is in one of them."""
        middle = (self.start + self.stop) // 2
        return (
            Piece(self.scoring, self.group, self.start, middle),
            Piece(self.scoring, self.group, middle, self.stop),
        )

    def again(self) -> Piece:
        """As another job: what became of this one is not known, or it was taken away."""
        return Piece(self.scoring, self.group, self.start, self.stop, self.losses + 1)

    @property
    def is_hopeless(self) -> bool:
        return self.losses >= MOST_LOSSES


class Pieces:
    """What is to be submitted next: pieces that came back first, in front of new ones."""

    def __init__(self, *, job_rows: int) -> None:
        self._job_rows = job_rows
        self._back: deque[Piece] = deque()
        self._new: deque[Iterator[Piece]] = deque()
        self._next: Piece | None = None

    def add(self, scoring: Scoring, groups: tuple[Group, ...]) -> None:
        """All rows of a chunk that can be submitted."""
        self._new.extend(self._cut(scoring, group) for group in groups)

    def put_back(self, *pieces: Piece) -> None:
        """In this order, before all others."""
        self._back.extendleft(reversed(pieces))

    def peek(self) -> Piece | None:
        """The next one; stays."""
        if self._back:
            return self._back[0]
        while self._next is None and self._new:
            self._next = next(self._new[0], None)
            if self._next is None:
                self._new.popleft()
        return self._next

    def take(self) -> Piece:
        """What `peek` showed."""
        if self._back:
            return self._back.popleft()
        piece, self._next = self._next, None
        assert piece is not None
        return piece

    def _cut(self, scoring: Scoring, group: Group) -> Iterator[Piece]:
        step = 1 if isinstance(group.inputs, list) else self._job_rows
        for start in range(0, len(group.rows), step):
            yield Piece(scoring, group, start, min(start + step, len(group.rows)))
