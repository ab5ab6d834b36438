"""Pieces of any length into chunks of one length. Knows no format and opens no file.

A chunk is where it is by its number alone: chunk `i` of `rows` holds rows [i * rows, (i + 1) * rows) of the source, whatever
lengths its files, row groups or blocks have. So a run that starts again at chunk 12 sees what the first one saw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import pyarrow as pa


class Piece(msgspec.Struct, frozen=True, eq=False):
    """Rows as a format gave them. `errors`: row of the piece -> why it could not be read; the table holds nulls there."""

    table: pa.Table
    errors: Mapping[int, str] = {}


class Chunk(msgspec.Struct, frozen=True, eq=False):
    """A slice of a source. `errors`: row of the chunk -> why it could not be read; the table holds nulls there.

    `first_row` counts from 0 over the whole source.
    """

    index: int
    first_row: int
    table: pa.Table
    errors: Mapping[int, str] = {}

    @property
    def rows(self) -> int:
        return int(self.table.num_rows)


def cut(pieces: Iterator[Piece], rows: int, first: int) -> Iterator[Chunk]:
    """Chunks from number `first` on; the pieces begin at its first row. All but the last are full."""
    index, kept, room = first, list[Piece](), rows
    for piece in pieces:
        start, length = 0, piece.table.num_rows
        while length - start >= room:
            kept.append(_part(piece, start, room))
            yield _joined(index, index * rows, kept)
            start, index, kept, room = start + room, index + 1, [], rows
        if start < length:
            kept.append(_part(piece, start, length - start))
            room -= length - start
    if kept:
        yield _joined(index, index * rows, kept)


def after(pieces: Iterator[Piece], skip: int) -> Iterator[Piece]:
    """The pieces without their first `skip` rows: for formats that can only be read from their beginning."""
    for piece in pieces:
        length = piece.table.num_rows
        if skip >= length:
            skip -= length
            continue
        yield _part(piece, skip, length - skip)
        skip = 0


def _part(piece: Piece, start: int, length: int) -> Piece:
    if start == 0 and length == piece.table.num_rows:
        return piece
    errors = {row - start: text for row, text in piece.errors.items() if start <= row < start + length}
    return Piece(piece.table.slice(start, length), errors)


def _joined(index: int, first_row: int, pieces: list[Piece]) -> Chunk:
    if len(pieces) == 1:
        return Chunk(index, first_row, pieces[0].table, pieces[0].errors)
    errors, start = dict[int, str](), 0
    for piece in pieces:
        errors |= {start + row: text for row, text in piece.errors.items()}
        start += piece.table.num_rows
    table = pa.concat_tables([piece.table for piece in pieces], promote_options="permissive")
    return Chunk(index, first_row, table, errors)
