"""Parts of a batch that failed as a whole. Pure: takes a batch, gives smaller ones; decides neither why nor whether.

By jobs, to find who is at fault; by rows, where the batch was too large for the device.
"""

from __future__ import annotations

from collections.abc import Callable

from workers.batch import Batch, Piece

Bucket = Callable[[int], int]


def by_jobs(batch: Batch, bucket: Bucket) -> list[Batch]:
    """Two halves with as many jobs: with one job at fault among n, the search costs at most 2 log2(n) forwards."""
    middle = (len(batch.pieces) + 1) // 2
    return [_of(half, batch, bucket) for half in (batch.pieces[:middle], batch.pieces[middle:])]


def by_rows(batch: Batch, most: int, bucket: Bucket) -> list[Batch]:
    """Parts of at most `most` rows, and at most half of them, in order; a job of many rows is cut too."""
    parts: list[Batch] = []
    room = size = min(most, (batch.rows + 1) // 2)
    pieces: list[Piece] = []
    for piece in batch.pieces:
        start = piece.start
        while start < piece.stop:
            stop = min(piece.stop, start + room)
            pieces.append(Piece(piece.job, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                parts.append(_of(pieces, batch, bucket))
                pieces, room = [], size
    return [*parts, _of(pieces, batch, bucket)] if pieces else parts


def without(batch: Batch, lease: bytes, bucket: Bucket) -> Batch | None:
    """The batch without one job; itself where that is not in it, None where nothing else is."""
    kept = [piece for piece in batch.pieces if piece.job.lease != lease]
    if len(kept) == len(batch.pieces):
        return batch
    return _of(kept, batch, bucket) if kept else None


def _of(pieces: list[Piece], batch: Batch, bucket: Bucket) -> Batch:
    rows = sum(piece.stop - piece.start for piece in pieces)
    return Batch(pieces, rows, bucket(rows), batch.dims)
