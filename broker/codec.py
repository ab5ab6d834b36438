"""Jobs, and the descriptors of tensors, to bytes and back. Nothing is pickled; every size is checked before anything is allocated.

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

The scripts read and write the fixed head (struct.unpack in Lua), so a change here is a change there. Outcomes are `outcome_codec`.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from broker import bodies
from broker.errors import DecodeError
from broker.lease import LANE_MARKS
from broker.messages import Column, Job, Kind, Signature

FORMAT = 1
FORMAT_APART = 2
JOB_HEAD = struct.Struct("<BBBBIIHH")

KIND_MASK, ONE_ROW, STORED = 0b11, 0b100, 0b1000

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
        job_id, lane, entry, LANE_MARKS[lane] + entry, kind, rows, bool(bits & ONE_ROW), signature, blob, at, ttl, bool(bits & STORED),
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
