"""Writes a batch into a slab: rows side by side, padded to the bucket. Takes no decision and checks nothing again.

Sizes were checked when the jobs were decoded and again when the batcher found their shape bucket.
"""

from __future__ import annotations

from math import prod

import numpy as np

from broker.codec import ITEM_BYTES
from broker.spec import ModelSpec
from workers.batch import Batch
from workers.columns import Columns, input_columns
from workers.exchange import Run
from workers.slabs import Place, Slab, layout


class Stower:
    """Knows where the tensors of each shape bucket lie; remembers, since batches repeat."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._is_raw = spec.takes != "tensors"
        self._is_varying = any(isinstance(dim, str) for tensor in spec.inputs for dim in tensor.shape)
        self._pads = [tensor.pad_value for tensor in spec.inputs]
        self._known: dict[tuple[tuple[int, ...], int], tuple[Columns, tuple[Place, ...]]] = {}

    def stow(self, batch: Batch, slab: Slab, *, seq: int, index: int) -> Run:
        """Fills the slab's input region; the message that runs it."""
        if self._is_raw:
            return Run(seq, index, batch.rows, batch.bucket, lengths=self._stow_raw(batch, slab))
        key = (batch.dims, batch.bucket)
        known = self._known.get(key)
        if known is None:
            columns = input_columns(self._spec, batch.dims)
            known = self._known[key] = (columns, layout(columns, batch.bucket)[0])
        if self._is_varying:
            self._stow_padded(batch, slab, known[1])
        else:
            self._stow_fixed(batch, slab, known[1])
        return Run(seq, index, batch.rows, batch.bucket, batch.dims, forwards=batch.forwards)

    def _stow_raw(self, batch: Batch, slab: Slab) -> list[int]:
        region = slab.input
        lengths, at = [], 0
        for piece in batch.pieces:
            job = piece.job
            length = len(job.data) - job.offset
            region[at : at + length] = memoryview(job.data)[job.offset :]
            lengths.append(length)
            at += length
        return lengths

    def _stow_fixed(self, batch: Batch, slab: Slab, places: tuple[Place, ...]) -> None:
        region = slab.input
        if len(places) == 1 and batch.rows == len(batch.pieces):
            # The common case, one row of one tensor per job: one copy of the joined rows.
            width = places[0].row_bytes
            joined = b"".join([p.job.data[p.job.offset + p.start * width :][:width] for p in batch.pieces])
            region[: len(joined)] = joined
        else:
            at = [place.offset for place in places]
            for piece in batch.pieces:
                job = piece.job
                start = job.offset
                for number, place in enumerate(places):
                    width = place.row_bytes
                    count = (piece.stop - piece.start) * width
                    first = start + piece.start * width
                    region[at[number] : at[number] + count] = memoryview(job.data)[first : first + count]
                    at[number] += count
                    start += job.rows * width
        if batch.bucket > batch.rows:  # what an earlier batch left there must not make this one's padding
            for place in places:
                first = place.offset + batch.rows * place.row_bytes
                region[first : place.offset + batch.bucket * place.row_bytes] = bytes(
                    (batch.bucket - batch.rows) * place.row_bytes
                )

    def _stow_padded(self, batch: Batch, slab: Slab, places: tuple[Place, ...]) -> None:
        arrays = slab.inputs(places)
        for place, pad in zip(places, self._pads, strict=True):
            arrays[place.name].fill(pad)
        row = 0
        for piece in batch.pieces:
            job = piece.job
            rows = piece.stop - piece.start
            start = job.offset
            for column in job.signature.columns:
                source = np.frombuffer(
                    job.data, dtype=column.dtype, count=rows * prod(column.shape),
                    offset=start + piece.start * column.row_bytes,
                ).reshape(rows, *column.shape)  # fmt: skip
                arrays[column.name][(slice(row, row + rows), *(slice(size) for size in column.shape))] = source
                start += job.rows * ITEM_BYTES[column.dtype] * prod(column.shape)
            row += rows
