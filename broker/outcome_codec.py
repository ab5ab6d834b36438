"""Outcomes to bytes and back, and the frames that a reply element carries them in. Nothing is pickled; every size is checked.

    0        1        2         3       4                                     20               22         24
    +--------+--------+---------+-------+------------------------------------+----------------+----------+----+------------+------+------+
    | format | status | attempt | idlen | queue, wait, forward, total (f32 ms)| descriptor len | note len | id | descriptor | note | data |
    +--------+--------+---------+-------+------------------------------------+----------------+----------+----+------------+------+------+

    status: low 4 bits the Status, bit 4 one row, bit 5 data is one msgpack value instead of tensors, bit 6 data is elsewhere
    descriptor: version length, version, rows (u32), then tensors as in a job

The scripts read and write the fixed head (struct.unpack in Lua), so a change here is a change there. Jobs and the descriptors of
tensors are `codec`.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from broker.codec import unpack_columns
from broker.errors import DecodeError
from broker.messages import Column, Job, Outcome, Status, Timings

FORMAT = 1
HEAD = struct.Struct("<BBBBffffHH")
FRAME = struct.Struct("<I")

STATUS_MASK, ONE_ROW, VALUE, ELSEWHERE = 0x0F, 0x10, 0x20, 0x40

_msgpack = msgspec.msgpack.Encoder()
_unpack = msgspec.msgpack.Decoder(dict[str, Any])
_descriptors: dict[bytes, tuple[str, int, tuple[Column, ...], int]] = {}  # they repeat for nearly every job of a model
_REMEMBERED = 1024


def pack_descriptor(version: str, rows: int, columns: bytes) -> bytes:
    """The descriptor of a done outcome; the same for every job of a uniform batch."""
    raw = version.encode()
    return struct.pack(f"<B{len(raw)}sI", len(raw), raw, rows) + columns


def encode(
    job_id: str,
    status: int,
    *,
    attempt: int,
    timings: tuple[float, float, float, float],
    descriptor: bytes = b"",
    note: dict[str, Any] | None = None,
    data: bytes = b"",
) -> bytes:
    """`status` carries the bits above STATUS_MASK too; `timings` are queue, wait, forward, total in ms."""
    raw_id = job_id.encode()
    raw_note = _msgpack.encode(note) if note else b""
    head = HEAD.pack(FORMAT, status, min(attempt, 255), len(raw_id), *timings, len(descriptor), len(raw_note))
    return b"".join((head, raw_id, descriptor, raw_note, data))


def encode_failure(job: Job, status: Status, *, reason: str, text: str, total_ms: float = 0.0) -> bytes:
    """An outcome that carries an error instead of data; the text is cut to 2 000 characters."""
    note = {"reason": reason, "error": text[:2000]}
    return encode(job.id, int(status), attempt=job.attempt, timings=(total_ms, 0.0, 0.0, total_ms), note=note)


def head_bytes(blob: bytes) -> int:
    """How many bytes of an outcome stand before its data; 0 when these are too few to tell."""
    if len(blob) < HEAD.size:
        return 0
    id_len, desc_len, note_len = blob[3], *struct.unpack_from("<HH", blob, 20)
    return HEAD.size + id_len + int(desc_len) + int(note_len)


def decode(blob: bytes, *, is_head: bool = False) -> Outcome:
    """Reads one outcome. Raises DecodeError when it is not format 1, is cut short, or its sizes do not agree.

    `is_head`: it was cut at `head_bytes`, and has no data.
    """
    try:
        version, bits, attempt, id_len, queue, wait, forward, total, desc_len, note_len = HEAD.unpack_from(blob)
        if version != FORMAT:
            raise DecodeError(
                f"outcome format {version} is not {FORMAT}, which this version reads: upgrade this client"
            )
        id_end = 24 + id_len
        desc_end = id_end + desc_len
        at = desc_end + note_len
        if at > len(blob):
            raise DecodeError(f"an outcome of {len(blob)} bytes claims a head of {at} bytes")
        model_version, rows, columns, row_bytes = (
            _read_descriptor(blob[id_end:desc_end]) if desc_len else ("", 0, (), 0)
        )
        if columns and not is_head and len(blob) - at != rows * row_bytes:
            raise DecodeError(f"an outcome holds {len(blob) - at} bytes of data, {rows * row_bytes} were declared")
        return Outcome(
            id=blob[24:id_end].decode(),
            status=Status(bits & STATUS_MASK),
            attempt=attempt,
            timings=Timings(queue, wait, forward, total),
            version=model_version,
            rows=rows,
            is_one_row=bool(bits & ONE_ROW),
            columns=columns,
            data=blob[at:],
            note=(_unpack.decode(blob[desc_end:at]) if note_len else {}) | _marks(bits),
        )
    except (struct.error, ValueError, msgspec.DecodeError, RecursionError) as error:
        raise DecodeError(f"an outcome is cut short or garbled: {error}") from None


def _marks(bits: int) -> dict[str, Any]:
    marks: dict[str, Any] = {}
    if bits & VALUE:
        marks["is_value"] = True
    if bits & ELSEWHERE:
        marks["is_elsewhere"] = True
    return marks


def _read_descriptor(raw: bytes) -> tuple[str, int, tuple[Column, ...], int]:
    """(model version, rows, columns, bytes of one row over all columns)."""
    known = _descriptors.get(raw)
    if known is not None:
        return known
    length = raw[0]
    version = raw[1 : 1 + length].decode()
    (rows,) = struct.unpack_from("<I", raw, 1 + length)
    at = 5 + length
    columns = unpack_columns(raw[at:]) if at < len(raw) else ()
    parsed = (version, rows, columns, sum(column.row_bytes for column in columns))
    if len(_descriptors) >= _REMEMBERED:
        _descriptors.clear()
    _descriptors[raw] = parsed
    return parsed


def split_frames(raw: bytes) -> list[bytes]:
    """Splits a reply element into the outcomes it carries. Raises DecodeError when it is cut short."""
    frames = []
    at, end = 0, len(raw)
    while at < end:
        if at + 4 > end:
            raise DecodeError("a reply ends inside a frame head")
        (length,) = FRAME.unpack_from(raw, at)
        at += 4
        if at + length > end:
            raise DecodeError("a reply ends inside a frame")
        frames.append(raw[at : at + length])
        at += length
    return frames


def id_of(blob: bytes) -> str:
    """The id alone, for routing an outcome before anyone asks for its content; '' when there is none to be read."""
    return blob[24 : 24 + blob[3]].decode(errors="replace") if len(blob) > 24 else ""
