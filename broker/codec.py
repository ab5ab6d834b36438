"""Jobs and outcomes to bytes and back. Nothing is pickled; every size is checked before anything is allocated.

Job on the wire (little-endian, all offsets in bytes):

    0        1      2       3        4     8             12               14         16
    +--------+------+-------+--------+-----+-------------+----------------+----------+----+------------+-------+------+
    | format | bits | idlen | retries| rows| result_ttl_s| descriptor len | ctx len  | id | descriptor | ctx   | data |
    +--------+------+-------+--------+-----+-------------+----------------+----------+----+------------+-------+------+

    bits: 0-1 kind, 2 one row (no row axis in the caller's arrays), 3 result is stored
    descriptor: count, then per tensor: name length, name, dtype code, rank, dims (u32, without the row axis)
    data: per tensor, rows x row bytes, raw

A job of format 2 is the same with a reference in place of the data, which stands apart (see `bodies`). It has a format of its
own so that a slot of a version before refuses it, and does not take the reference for raw input.

Outcome on the wire:

    0        1        2         3       4                                     20               22         24
    +--------+--------+---------+-------+------------------------------------+----------------+----------+----+------------+------+------+
    | format | status | attempt | idlen | queue, wait, forward, total (f32 ms)| descriptor len | note len | id | descriptor | note | data |
    +--------+--------+---------+-------+------------------------------------+----------------+----------+----+------------+------+------+

    status: low 4 bits the Status, bit 4 one row, bit 5 data is one msgpack value instead of tensors
    descriptor: version length, version, rows (u32), then tensors as in a job

The scripts read and write the fixed heads (struct.unpack in Lua), so a change here is a change there.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from broker import bodies
from broker.errors import DecodeError
from broker.messages import Column, Job, Kind, Outcome, Signature, Status, Timings

FORMAT = 1
FORMAT_APART = 2  # of jobs
JOB_HEAD = struct.Struct("<BBBBIIHH")
OUTCOME_HEAD = struct.Struct("<BBBBffffHH")
FRAME = struct.Struct("<I")

KIND_MASK, ONE_ROW, STORED = 0b11, 0b100, 0b1000
STATUS_MASK, OUTCOME_ONE_ROW, OUTCOME_VALUE, OUTCOME_ELSEWHERE = 0x0F, 0x10, 0x20, 0x40

MAX_ROWS = 1 << 20
MAX_RANK = 8
MAX_COLUMNS = 64
MAX_ROW_BYTES = 1 << 30

# The place in this tuple is the code on the wire: append only.
DTYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32",
    "float64",
)  # fmt: skip
ITEM_BYTES = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
    "float16": 2, "float32": 4, "float64": 8,
}  # fmt: skip
_CODES = {name: code for code, name in enumerate(DTYPES)}
RAW_SIGNATURE = Signature(columns=(), row_bytes=0)

_msgpack = msgspec.msgpack.Encoder()
_unpack = msgspec.msgpack.Decoder(dict[str, Any])
_descriptors: dict[bytes, Signature] = {}  # descriptors repeat for nearly every job of a model
_outcome_descriptors: dict[bytes, tuple[str, int, tuple[Column, ...], int]] = {}
_REMEMBERED = 1024


def pack_columns(columns: list[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """Encodes (name, dtype, per-row shape) triples as a descriptor."""
    parts = [bytes((len(columns),))]
    for name, dtype, shape in columns:
        raw = name.encode()
        parts.append(struct.pack(f"<B{len(raw)}sBB{len(shape)}I", len(raw), raw, _CODES[dtype], len(shape), *shape))
    return b"".join(parts)


def unpack_columns(raw: bytes, at: int = 0) -> tuple[Column, ...]:
    """Reads a descriptor. Raises DecodeError on anything that does not fit the limits above."""
    try:
        count = raw[at]
        at += 1
        if count > MAX_COLUMNS:
            raise DecodeError(f"a message names {count} tensors, at most {MAX_COLUMNS} are read")
        columns = []
        for _ in range(count):
            name_len = raw[at]
            name = raw[at + 1 : at + 1 + name_len].decode()
            at += 1 + name_len
            code, rank = raw[at], raw[at + 1]
            at += 2
            if rank > MAX_RANK or code >= len(DTYPES):
                raise DecodeError(
                    f"tensor {name!r} has rank {rank}, dtype code {code}: not a format this version reads"
                )
            shape = struct.unpack_from(f"<{rank}I", raw, at)
            at += 4 * rank
            row_bytes = ITEM_BYTES[DTYPES[code]]
            for dim in shape:
                row_bytes *= dim
                if row_bytes > MAX_ROW_BYTES:
                    raise DecodeError(f"tensor {name!r} claims more than {MAX_ROW_BYTES} bytes a row")
            columns.append(Column(name=name, dtype=DTYPES[code], shape=shape, row_bytes=row_bytes))
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise DecodeError(f"a tensor descriptor is cut short or garbled: {error}") from None
    if at != len(raw):
        raise DecodeError(f"a tensor descriptor has {len(raw) - at} bytes too many")
    return tuple(columns)


def encode_job_head(
    *,
    kind: Kind,
    rows: int,
    is_one_row: bool,
    is_stored: bool,
    retries: int,
    result_ttl_s: int,
    descriptor: bytes,
    context: dict[str, Any] | None,
    is_apart: bool = False,
) -> tuple[bytes, bytes]:
    """What stands before and after the id; the same for every job of a uniform chunk. `is_apart`: a reference follows, no data."""
    ctx = _msgpack.encode(context) if context else b""
    bits = int(kind) | (ONE_ROW if is_one_row else 0) | (STORED if is_stored else 0)
    version = FORMAT_APART if is_apart else FORMAT
    head = JOB_HEAD.pack(version, bits, 0, retries, rows, result_ttl_s, len(descriptor), len(ctx))
    return head, descriptor + ctx


def encode_job(head: bytes, job_id: bytes, tail: bytes, data: bytes | memoryview) -> bytes:
    """Joins the parts of `encode_job_head` with an id and the raw data."""
    return b"".join((head[:2], bytes((len(job_id),)), head[3:], job_id, tail, data))


def decode_job(
    blob: bytes, *, entry: bytes, lane: int, deliveries: int, submitted_ms: int, attempt: int = 1, deadline_ms: int = 0
) -> Job:
    """Reads one job. Raises DecodeError when it is not format 1 or 2, or its sizes do not agree.

    Of a job whose body stands apart, `data` holds the reference from `offset` on: see `claimed.with_body`.
    """
    try:
        version, bits, id_len, retries, rows, ttl, desc_len, ctx_len = JOB_HEAD.unpack_from(blob)
    except struct.error:
        raise DecodeError(f"a job of {len(blob)} bytes is shorter than its head") from None
    if version != FORMAT and version != FORMAT_APART:
        formats = f"{FORMAT} or {FORMAT_APART}"
        raise DecodeError(f"job format {version} is not {formats}, which this version reads: upgrade the workers first")
    id_end = 16 + id_len
    desc_end = id_end + desc_len
    at = desc_end + ctx_len
    if at > len(blob) or not 0 < rows <= MAX_ROWS:
        raise DecodeError(f"a job of {len(blob)} bytes claims {rows} rows and a head of {at} bytes")
    reference = bodies.decode(blob[at:]) if version == FORMAT_APART else None
    size = len(blob) - at if reference is None else reference.size
    kind = bits & KIND_MASK
    if kind:
        signature = RAW_SIGNATURE
    else:
        raw = blob[id_end:desc_end]
        known = _descriptors.get(raw)
        signature = known if known is not None else _remember_descriptor(raw)
        if size != rows * signature.row_bytes:
            raise DecodeError(f"a job holds {size} bytes of data, {rows * signature.row_bytes} were declared")
    try:
        job_id = blob[16:id_end].decode()
        context = _unpack.decode(blob[desc_end:at]) if ctx_len else None
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:  # the last: nested thousands deep
        raise DecodeError(f"a job's id or context is garbled: {error}") from None
    return Job(
        job_id, lane, entry, kind, rows, bool(bits & ONE_ROW), signature, blob, at, ttl, bool(bits & STORED),
        retries, attempt, deliveries, len(blob) if reference is None else len(blob) + size, submitted_ms, deadline_ms,
        context, reference,
    )  # fmt: skip


def read_head(blob: bytes) -> tuple[str, int, bool]:
    """(id, result_ttl_s, is_stored) of a job whose rest cannot be decoded; for failing it by name."""
    try:
        _, bits, id_len, _, _, ttl, _, _ = JOB_HEAD.unpack_from(blob)
        return blob[16 : 16 + id_len].decode(), ttl, bool(bits & STORED)
    except (struct.error, UnicodeDecodeError):
        raise DecodeError("a job's head is garbled") from None


def _remember_descriptor(raw: bytes) -> Signature:
    columns = unpack_columns(raw)
    signature = Signature(columns=columns, row_bytes=sum(column.row_bytes for column in columns))
    if len(_descriptors) >= _REMEMBERED:
        _descriptors.clear()
    _descriptors[raw] = signature
    return signature


def pack_outcome_descriptor(version: str, rows: int, columns: bytes) -> bytes:
    """The descriptor of a done outcome; the same for every job of a uniform batch."""
    raw = version.encode()
    return struct.pack(f"<B{len(raw)}sI", len(raw), raw, rows) + columns


def encode_outcome(
    job_id: str,
    status: int,
    *,
    attempt: int,
    timings: tuple[float, float, float, float],
    descriptor: bytes = b"",
    note: dict[str, Any] | None = None,
    data: bytes = b"",
) -> bytes:
    """`status` carries the OUTCOME_* bits too; `timings` are queue, wait, forward, total in ms."""
    raw_id = job_id.encode()
    raw_note = _msgpack.encode(note) if note else b""
    head = OUTCOME_HEAD.pack(FORMAT, status, min(attempt, 255), len(raw_id), *timings, len(descriptor), len(raw_note))
    return b"".join((head, raw_id, descriptor, raw_note, data))


def encode_failure(job: Job, status: Status, *, reason: str, text: str, total_ms: float = 0.0) -> bytes:
    """An outcome that carries an error instead of data; the text is cut to 2 000 characters."""
    note = {"reason": reason, "error": text[:2000]}
    return encode_outcome(job.id, int(status), attempt=job.attempt, timings=(total_ms, 0.0, 0.0, total_ms), note=note)


def decode_outcome(blob: bytes) -> Outcome:
    """Reads one outcome. Raises DecodeError when it is not format 1, is cut short, or its sizes do not agree."""
    try:
        version, bits, attempt, id_len, queue, wait, forward, total, desc_len, note_len = OUTCOME_HEAD.unpack_from(blob)
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
            _outcome_descriptor(blob[id_end:desc_end]) if desc_len else ("", 0, (), 0)
        )
        if columns and len(blob) - at != rows * row_bytes:
            raise DecodeError(f"an outcome holds {len(blob) - at} bytes of data, {rows * row_bytes} were declared")
        return Outcome(
            id=blob[24:id_end].decode(),
            status=Status(bits & STATUS_MASK),
            attempt=attempt,
            timings=Timings(queue, wait, forward, total),
            version=model_version,
            rows=rows,
            is_one_row=bool(bits & OUTCOME_ONE_ROW),
            columns=columns,
            data=blob[at:],
            note=(_unpack.decode(blob[desc_end:at]) if note_len else {}) | _marks(bits),
        )
    except (struct.error, ValueError, msgspec.DecodeError, RecursionError) as error:
        raise DecodeError(f"an outcome is cut short or garbled: {error}") from None


def _marks(bits: int) -> dict[str, Any]:
    marks: dict[str, Any] = {}
    if bits & OUTCOME_VALUE:
        marks["is_value"] = True
    if bits & OUTCOME_ELSEWHERE:
        marks["is_elsewhere"] = True
    return marks


def _outcome_descriptor(raw: bytes) -> tuple[str, int, tuple[Column, ...], int]:
    """(model version, rows, columns, bytes of one row over all columns)."""
    known = _outcome_descriptors.get(raw)
    if known is not None:
        return known
    length = raw[0]
    version = raw[1 : 1 + length].decode()
    (rows,) = struct.unpack_from("<I", raw, 1 + length)
    at = 5 + length
    columns = unpack_columns(raw[at:]) if at < len(raw) else ()
    parsed = (version, rows, columns, sum(column.row_bytes for column in columns))
    if len(_outcome_descriptors) >= _REMEMBERED:
        _outcome_descriptors.clear()
    _outcome_descriptors[raw] = parsed
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


def outcome_id(blob: bytes) -> str:
    """The id alone, for routing an outcome before anyone asks for its content; '' when there is none to be read."""
    return blob[24 : 24 + blob[3]].decode(errors="replace") if len(blob) > 24 else ""
