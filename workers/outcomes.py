"""Turns the engine's answer to a batch into outcomes per job. Pure: bytes in, bytes out; jobs that were split are joined.

A row that failed fails its job when that has one row; a job of many rows is done, and its outcome names the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import msgspec
import numpy as np

from broker import codec, outcome_codec
from broker.ends import Ended, Fault
from broker.messages import Job, Status
from broker.spec import ModelSpec
from workers.about import cut
from workers.batch import Batch, Piece
from workers.exchange import Note, Ran
from workers.faults import fault_by
from workers.slabs import Place, Slab, layout

FORGOTTEN_CAP = 4096


class Clocked(msgspec.Struct, frozen=True):
    """When a batch was dispatched and when it ended, in Redis' time (ms)."""

    dispatched_ms: float
    ended_ms: float


class Results(msgspec.Struct, frozen=True):
    """The jobs a batch ended: to settle, and to fail."""

    ended: list[Ended]
    faults: list[Fault]


class Outcomes:
    """Encodes outcomes; holds the finished parts of jobs that were split until the last one comes."""

    def __init__(self, spec: ModelSpec) -> None:
        self._version = spec.version
        self._varying = {
            tensor.name: tensor.shape for tensor in spec.outputs if any(isinstance(d, str) for d in tensor.shape)
        }
        self._input_shapes = [tensor.shape for tensor in spec.inputs]
        self._parts: dict[bytes, list[_Part]] = {}
        # In order; a piece ends at most a few batches after its job was dropped.
        self._forgotten: dict[bytes, None] = {}
        self._descriptors: dict[Any, bytes] = {}
        self._layouts: dict[Any, tuple[Place, ...]] = {}

    def of(self, batch: Batch, ran: Ran, slab: Slab, clocked: Clocked, claimed_ms: Mapping[bytes, float]) -> Results:
        """`claimed_ms`: lease -> Redis time of its claim."""
        is_plain = ran.value_lengths is None and not ran.notes and not self._varying and len(ran.columns) == 1
        if is_plain and len(batch.pieces) == batch.rows and not self._parts:
            return Results(self._plain(batch, ran, slab, clocked, claimed_ms), [])
        return self._general(batch, ran, slab, clocked, claimed_ms)

    def took(self, jobs: Iterable[Job]) -> None:
        """Jobs were claimed; one that was dropped before is run anew."""
        if self._forgotten or self._parts:
            for job in jobs:
                self._forgotten.pop(job.lease, None)
                self._parts.pop(job.lease, None)

    def forget(self, leases: set[bytes]) -> None:
        """Drops the finished parts of jobs that failed or were returned, and ignores those still to come."""
        for lease in leases:
            self._parts.pop(lease, None)
            self._forgotten[lease] = None
        while len(self._forgotten) > FORGOTTEN_CAP:
            del self._forgotten[next(iter(self._forgotten))]

    # --- one row, one tensor, nothing to tell: the hot path --------------------------------------

    def _plain(
        self, batch: Batch, ran: Ran, slab: Slab, clocked: Clocked, claimed_ms: Mapping[bytes, float]
    ) -> list[Ended]:
        one_row = self._descriptor(ran.columns, 1)
        region = slab.output
        width = self._layout(ran, batch.bucket)[0].row_bytes
        pack, join, forward_ms = outcome_codec.HEAD.pack, b"".join, ran.forward_ms
        dispatched, ended_ms, length = clocked.dispatched_ms, clocked.ended_ms, len(one_row)
        ended = []
        at = 0
        for piece in batch.pieces:
            job = piece.job
            claimed = claimed_ms.get(job.lease)
            if job.rows > 1 or claimed is None:  # the last row of a job that was split, or a lease let go meanwhile
                return self._general(batch, ran, slab, clocked, claimed_ms).ended
            raw_id = job.id.encode()
            submitted = job.submitted_ms
            status = _DONE_ONE_ROW if job.is_one_row else _DONE
            head = pack(
                outcome_codec.FORMAT, status, job.attempt, len(raw_id), claimed - submitted, dispatched - claimed, forward_ms,
                ended_ms - submitted, length, 0,
            )  # fmt: skip
            ended.append(Ended(job, join((head, raw_id, one_row, region[at : at + width]))))
            at += width
        return ended

    # --- everything else ----------------------------------------------------------------------

    def _general(
        self, batch: Batch, ran: Ran, slab: Slab, clocked: Clocked, claimed_ms: Mapping[bytes, float]
    ) -> Results:
        ended: list[Ended] = []
        faults: list[Fault] = []
        notes: dict[int, list[Note]] = {}
        for note in ran.notes:
            notes.setdefault(note.row, []).append(note)
        row = value_at = 0
        for piece in batch.pieces:
            rows = piece.stop - piece.start
            data: list[bytes]
            if ran.value_lengths is not None:
                data = []
                for length in ran.value_lengths[row : row + rows]:
                    data.append(bytes(slab.output[value_at : value_at + length]))
                    value_at += length
                columns: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
            else:
                columns, data = self._tensors(piece, ran, slab, batch.bucket, row)
            said = [
                Note(piece.start + note.row - row, note.is_error, note.reason, note.text)
                for at in (range(row, row + rows) if notes else ())  # thousands of rows, and nothing to say of any
                for note in notes.get(at, ())
            ]
            row += rows
            part = _Part(piece, columns, data, said, ran.forward_ms)
            job = piece.job
            claimed = claimed_ms.get(job.lease)
            if claimed is None or job.lease in self._forgotten:
                continue  # returned or failed meanwhile: its end is not ours to tell
            if rows == job.rows:
                parts = [part]
            else:
                parts = self._parts.setdefault(job.lease, [])
                parts.append(part)
                if sum(one.piece.stop - one.piece.start for one in parts) < job.rows:
                    continue
                del self._parts[job.lease]
                parts.sort(key=lambda one: one.piece.start)  # halves of a failed batch end after what followed them
            times = (
                claimed - job.submitted_ms,
                max(0.0, clocked.dispatched_ms - claimed),
                sum(one.forward_ms for one in parts),
                clocked.ended_ms - job.submitted_ms,
            )
            self._end(job, parts, times, ended, faults)
        return Results(ended, faults)

    def _end(
        self,
        job: Job,
        parts: list[_Part],
        times: tuple[float, float, float, float],
        ended: list[Ended],
        faults: list[Fault],
    ) -> None:
        said = [note for part in parts for note in part.notes]
        errors = {note.row: note for note in said if note.is_error}
        if errors and job.rows == 1:
            note = errors[0]
            now_ms = job.submitted_ms + times[3]
            faults.append(fault_by(job, note.reason, note.text, now_ms=now_ms))
            return
        about: dict[str, Any] = {}
        if errors:
            about["row_errors"] = cut({str(row): f"{note.reason}: {note.text}" for row, note in errors.items()})
        flags = {str(note.row): note.text for note in said if not note.is_error}
        if flags:
            about["flags"] = cut(flags)
        status = _DONE_ONE_ROW if job.is_one_row else _DONE
        columns = parts[0].columns
        if columns:
            data = b"".join(part.data[number] for number in range(len(columns)) for part in parts)
        else:
            status |= outcome_codec.VALUE
            values = [msgspec.Raw(raw or b"\xc0") for part in parts for raw in part.data]
            data = bytes(values[0]) if job.is_one_row else msgspec.msgpack.encode(values)
        outcome = outcome_codec.encode(
            job.id, status, attempt=job.attempt, timings=times, descriptor=self._descriptor(columns, job.rows),
            note=about, data=data,
        )  # fmt: skip
        ended.append(Ended(job, outcome))

    def _tensors(
        self, piece: Piece, ran: Ran, slab: Slab, bucket: int, row: int
    ) -> tuple[tuple[tuple[str, str, tuple[int, ...]], ...], list[bytes]]:
        """Columns and raw rows of one piece, one bytes per output; varying dimensions cut back to the job's own."""
        rows = piece.stop - piece.start
        columns, data = [], []
        sizes: dict[str, int] = {}
        if self._varying and piece.job.signature.columns:
            for shape, column in zip(self._input_shapes, piece.job.signature.columns, strict=True):
                sizes.update((dim, size) for dim, size in zip(shape, column.shape, strict=True) if isinstance(dim, str))
        for (name, dtype, shape), place in zip(ran.columns, self._layout(ran, bucket), strict=True):
            wanted = self._varying.get(name)
            if wanted is None or not sizes:
                first = place.offset + row * place.row_bytes
                data.append(bytes(slab.output[first : first + rows * place.row_bytes]))
                columns.append((name, dtype, shape))
                continue
            array = np.frombuffer(slab.output, dtype=dtype, count=prod(place.shape), offset=place.offset)
            own = tuple(
                sizes.get(dim, size) if isinstance(dim, str) else size for dim, size in zip(wanted, shape, strict=True)
            )
            cut = array.reshape(place.shape)[(slice(row, row + rows), *(slice(size) for size in own))]
            data.append(np.ascontiguousarray(cut).tobytes())
            columns.append((name, dtype, own))
        return tuple(columns), data

    def _layout(self, ran: Ran, bucket: int) -> tuple[Place, ...]:
        key = (ran.columns, bucket)
        known = self._layouts.get(key)
        if known is None:
            known = self._layouts[key] = layout(ran.columns, bucket)[0]
        return known

    def _descriptor(self, columns: tuple[tuple[str, str, tuple[int, ...]], ...], rows: int) -> bytes:
        key = (columns, rows)
        known = self._descriptors.get(key)
        if known is None:
            if len(self._descriptors) > 1024:
                self._descriptors.clear()
            packed = codec.pack_columns(list(columns)) if columns else b""
            known = self._descriptors[key] = outcome_codec.pack_descriptor(self._version, rows, packed)
        return known


_DONE = int(Status.DONE)
_DONE_ONE_ROW = _DONE | outcome_codec.ONE_ROW


class _Part(msgspec.Struct, frozen=True):
    """The outputs of one piece: bytes per column, or one msgpack value per row."""

    piece: Piece
    columns: tuple[tuple[str, str, tuple[int, ...]], ...]
    data: list[bytes]
    notes: list[Note]
    forward_ms: float
