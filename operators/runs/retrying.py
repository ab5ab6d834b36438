"""The rows of a finished run that failed, to be scored again: read from its parts, and put back among those that did not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from operators.runs.ahead import Readied
from operators.runs.data.binding import Binding
from operators.runs.data.scored import ERROR, Layout
from operators.runs.data.sink import Sink
from operators.runs.data.slices import Chunk
from operators.runs.pieces import Scoring


def failed_rows(
    chunks: Callable[[int], Iterator[Chunk]], sink: Sink, parts: Sequence[int], binding: Binding, layout: Layout
) -> Iterator[Readied]:
    """Of each of these parts, which have failed rows, only those. `chunks(first)` reads the input from that chunk on."""
    reading: Iterator[Chunk] = iter(())
    next_index = -1
    for index in parts:
        old = sink.read(index)
        places = np.flatnonzero(old[ERROR].is_valid().to_numpy())
        if index != next_index:
            reading = chunks(index)
        chunk, next_index = next(reading), index + 1
        read = binding.read(_only(chunk, places))
        page = layout.page(read)
        left = sum(len(group.rows) for group in read.groups)

        def finish(
            version: str, old: pa.Table = old, places: NDArray[np.int64] = places, table: _Table = page.table
        ) -> pa.Table:
            return merged(old, places, table(version))

        yield (
            Scoring(index, chunk.first_row, chunk.rows, page, read.keys, left, places, finish, len(places)),
            read.groups,
        )


def merged(old: pa.Table, places: NDArray[np.int64], new: pa.Table) -> pa.Table:
    """`old` with the rows at `places` taken from `new`, in order."""
    take = np.arange(old.num_rows)
    take[places] = old.num_rows + np.arange(len(places))
    return pa.concat_tables([old, new.cast(old.schema)]).take(pa.array(take)).combine_chunks()


def _only(chunk: Chunk, places: NDArray[np.int64]) -> Chunk:
    numbers = {int(place): at for at, place in enumerate(places)}
    errors = {numbers[row]: text for row, text in chunk.errors.items() if row in numbers}
    return Chunk(chunk.index, chunk.first_row, chunk.table.take(pa.array(places)), errors)


_Table = Callable[[str], pa.Table]
