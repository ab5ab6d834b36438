"""Jobs and outcomes as bytes: format 1 written down once, and the like of it with one part changed."""

from __future__ import annotations

import struct
from typing import Any

from broker import codec, outcome_codec
from broker.messages import Job, Kind, Status

# Format 1, written down once. If one of these tests fails, workers and producers of two versions no longer understand
# each other: raise codec.FORMAT and read the old one too.
GOLDEN_JOB = bytes.fromhex(
    "01" "0c" "04" "03" "01000000" "3c000000" "0900" "0500"  # format bits idlen retries rows ttl lengths
    "61622d37" "01" "0178" "0a" "01" "02000000"  # ab-7; one tensor: x, float32, rank 1, dims 2
    "81a174a131" "0000803f" "00000040"  # {"t": "1"}; 1.0 2.0
)  # fmt: skip
GOLDEN_OUTCOME = bytes.fromhex(
    "01" "11" "01" "04" "0000803f" "0000003f" "0000803e" "0000e03f" "1000" "0400"
    "61622d37" "027631" "01000000" "01" "0178" "0a" "01" "02000000" "81a16e01" "0000803f" "00000040"
)  # fmt: skip


def a_job(*, data: bytes = b"\0" * 8, rows: int = 1, context: dict[str, Any] | None = None, **head: Any) -> bytes:
    fields: dict[str, Any] = {"kind": Kind.TENSORS, "is_one_row": True, "is_stored": True, "retries": 3, "result_ttl_s": 60,
              "descriptor": codec.pack_columns([("x", "float32", (2,))])} | head  # fmt: skip
    start, tail = codec.encode_job_head(rows=rows, context=context, **fields)
    return codec.encode_job(start, b"ab-7", tail, data)


def an_outcome(**parts: Any) -> bytes:
    columns = codec.pack_columns([("x", "float32", (2,))])
    fields: dict[str, Any] = {"attempt": 1, "timings": (1.0, 0.5, 0.25, 1.75), "data": struct.pack("<2f", 1, 2),
              "descriptor": outcome_codec.pack_descriptor("v1", 1, columns), "note": {"n": 1}} | parts  # fmt: skip
    return outcome_codec.encode("ab-7", Status.DONE | outcome_codec.ONE_ROW, **fields)


def decode(blob: bytes) -> Job:
    return codec.decode_job(blob, entry=b"5-0", lane=1, deliveries=2, submitted_ms=5, attempt=3, deadline_ms=9)
