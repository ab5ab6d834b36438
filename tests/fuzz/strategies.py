"""Inputs for the fuzz targets: well-formed messages of every shape, and those with bytes changed, cut and grown."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import strategies as st

from broker import codec, outcome_codec
from broker.errors import DecodeError

_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
_names = st.text(alphabet=st.characters(codec="utf-8"), max_size=12)
contexts = st.none() | st.dictionaries(_names, _values, max_size=4)
ids = st.binary(max_size=40) | st.from_regex(rb"[a-z2-7]{16}-[0-9]{1,9}", fullmatch=True)


@st.composite
def descriptors(draw: Any) -> bytes:
    """A tensor descriptor: true to the format, or with numbers that lie."""
    parts = [bytes((draw(st.integers(0, 4)),))]
    for _ in range(parts[0][0]):
        name = draw(_names).encode()[:255]
        shape = draw(st.lists(st.integers(0, 8) | st.sampled_from([2**31, 2**32 - 1]), max_size=9))
        code = draw(st.integers(0, 13))
        parts.append(struct.pack(f"<B{len(name)}sBB{len(shape)}I", len(name), name, code, len(shape), *shape))
    return b"".join(parts)


@st.composite
def jobs(draw: Any) -> bytes:
    """A job whose parts fit together more often than not."""
    kind = draw(st.integers(0, 3))
    job_id, described = draw(ids), draw(descriptors()) if kind == 0 else b""
    context = draw(contexts)
    ctx = msgspec.msgpack.encode(context) if context else b""
    rows = draw(st.integers(1, 4) | st.sampled_from([0, 2**20, 2**32 - 1]))
    bits = kind | draw(st.integers(0, 63)) << 2
    head = codec.JOB_HEAD.pack(
        codec.FORMAT, bits, len(job_id), draw(st.integers(0, 255)), rows, draw(st.integers(0, 2**32 - 1)), len(described),
        len(ctx),
    )  # fmt: skip
    return b"".join((head, job_id, described, ctx, draw(st.binary(max_size=64))))


@st.composite
def outcomes(draw: Any) -> bytes:
    """An outcome whose parts fit together more often than not."""
    described = outcome_codec.pack_descriptor("1", draw(st.integers(0, 2**32 - 1)), draw(descriptors()))
    note = draw(contexts)
    job_id = draw(ids)
    raw = msgspec.msgpack.encode(note) if note else b""
    head = outcome_codec.HEAD.pack(
        outcome_codec.FORMAT, draw(st.integers(0, 255)), 1, len(job_id), *draw(st.tuples(*[st.floats(width=32)] * 4)), len(described),
        len(raw),
    )  # fmt: skip
    return b"".join((head, job_id, described, raw, draw(st.binary(max_size=64))))


@st.composite
def spoiled(draw: Any, whole: st.SearchStrategy[bytes]) -> bytes:
    """`whole` with up to four bytes changed, maybe cut, maybe with more behind it."""
    blob = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 4))):
        if blob:
            blob[draw(st.integers(0, len(blob) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del blob[draw(st.integers(0, len(blob))) :]
    return bytes(blob) + draw(st.binary(max_size=8))


def read_within(read: Callable[[bytes], object], blob: bytes, *, most_bytes: int = 0) -> object:
    """What `read` gives, None for a DecodeError; fails when it allocates more than the blob could ever need.

    The smallest values of msgpack are a byte on the wire and about 90 bytes as Python objects.
    """
    most_bytes = most_bytes or 100_000 + 128 * len(blob)
    tracemalloc.start()
    try:
        return read(blob)
    except DecodeError:
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= most_bytes, f"{peak} bytes allocated for {len(blob)}"
