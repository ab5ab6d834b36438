"""Garbage on the wire is refused with DecodeError and nothing else, before anything is allocated for what it declares."""

from __future__ import annotations

import struct
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker import codec, outcome_codec
from broker.errors import DecodeError
from broker.messages import Job, Kind, Outcome, Status
from tests.broker.letters import GOLDEN_JOB, GOLDEN_OUTCOME, a_job, an_outcome, decode

fuzz = settings(max_examples=200, deadline=None, database=None)


def peak_bytes(blob: bytes, read: Any) -> int:
    """The most that `read` had allocated while it refused or read the blob."""
    tracemalloc.start()
    try:
        read(blob)
    except DecodeError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@fuzz
@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_decode_errors(raw: bytes) -> None:
    for read in (decode, outcome_codec.decode, codec.unpack_columns, outcome_codec.split_frames, codec.read_head):
        for blob in (raw, b"\x01" + raw):
            try:
                read(blob)
            except DecodeError:
                pass


@settings(fuzz, max_examples=1000)
@given(st.sampled_from([GOLDEN_JOB, GOLDEN_OUTCOME]), st.data())
def test_a_message_with_altered_bytes_raises_nothing_but_decode_errors(golden: bytes, data: st.DataObject) -> None:
    # given
    blob = bytearray(golden)
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(blob[: data.draw(st.integers(0, len(blob)))])
    # then
    for raw in (bytes(blob), cut):
        for read in (decode, outcome_codec.decode):
            try:
                assert isinstance(read(raw), Job | Outcome)
            except DecodeError:
                pass


@pytest.mark.parametrize("cut", range(len(GOLDEN_JOB)))
def test_a_job_cut_anywhere_is_refused(cut: int) -> None:
    with pytest.raises(DecodeError):
        decode(GOLDEN_JOB[:cut])


@pytest.mark.parametrize("cut", range(len(GOLDEN_OUTCOME)))
def test_an_outcome_cut_anywhere_is_refused(cut: int) -> None:
    with pytest.raises(DecodeError):
        outcome_codec.decode(GOLDEN_OUTCOME[:cut])


@pytest.mark.parametrize("read", [decode, outcome_codec.decode])
def test_a_newer_format_is_refused_with_the_mend(read: Any) -> None:
    golden = GOLDEN_JOB if read is decode else GOLDEN_OUTCOME
    with pytest.raises(DecodeError, match=r"format 9 is not 1( or 2)?, which this version reads: upgrade"):
        read(b"\x09" + golden[1:])


@pytest.mark.parametrize("nested", [b"\x91" * 60_000, b"\x81\xa1a" * 20_000], ids=["arrays", "maps"])
def test_a_context_nested_too_deep_is_refused(nested: bytes) -> None:
    # given: what a decoder that recurses dies of
    context = b"\x81\xa1a" + nested
    head = codec.JOB_HEAD.pack(1, Kind.BYTES, 4, 0, 1, 0, 0, len(context))
    outcome = outcome_codec.HEAD.pack(1, Status.DONE, 1, 4, 0, 0, 0, 0, 0, len(context))
    # then
    with pytest.raises(DecodeError, match="garbled"):
        decode(head + b"ab-7" + context)
    with pytest.raises(DecodeError, match="garbled"):
        outcome_codec.decode(outcome + b"ab-7" + context)


# --- declared sizes --------------------------------------------------------------------------

HUGE = {
    "2^20 rows of 1 GB": a_job()[:4] + struct.pack("<I", 1 << 20) + a_job()[8:],
    "2^32 - 1 rows": a_job()[:4] + b"\xff" * 4 + a_job()[8:],
    "no rows": a_job()[:4] + b"\0" * 4 + a_job()[8:],
    "a row of 16 GB": a_job(descriptor=codec.pack_columns([("x", "float32", (0xFFFFFFFF,))])),
    "a row past 64 bits": a_job(descriptor=codec.pack_columns([("x", "float64", (0xFFFFFFFF,) * 8)])),
    "255 tensors": a_job(descriptor=b"\xff" + b"\0" * 12),
    "rank 255": a_job(descriptor=b"\x01\x01x\x0a\xff" + b"\0" * 60),
    "an unknown dtype": a_job(descriptor=b"\x01\x01x\x0c\x00"),
    "a context of 4 G items": codec.JOB_HEAD.pack(1, 1, 4, 0, 1, 0, 0, 8) + b"ab-7\x81\xa1a\xdd\xff\xff\xff\xff",
    "a head past the end": codec.JOB_HEAD.pack(1, 1, 4, 0, 1, 0, 0xFFFF, 0xFFFF) + b"ab-7",
}


@pytest.mark.parametrize("name", HUGE)
def test_a_job_that_declares_more_than_it_holds_is_refused_before_anything_is_allocated(name: str) -> None:
    with pytest.raises(DecodeError):
        decode(HUGE[name])
    started = time.process_time()
    assert peak_bytes(HUGE[name], decode) < 100_000
    assert time.process_time() - started < 0.1


@pytest.mark.parametrize("rows", [2, 0xFFFFFFFF])
def test_an_outcome_that_declares_more_than_it_holds_is_refused_before_anything_is_allocated(rows: int) -> None:
    # given
    tensors = codec.pack_columns([("y", "float32", (2,))])
    blob = an_outcome(descriptor=outcome_codec.pack_descriptor("1", rows, tensors))
    # then
    with pytest.raises(DecodeError, match="8 bytes of data"):
        outcome_codec.decode(blob)
    assert peak_bytes(blob, outcome_codec.decode) < 100_000


@pytest.mark.parametrize("declared", [1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_frame_longer_than_its_reply_is_refused_before_anything_is_allocated(declared: int) -> None:
    raw = outcome_codec.FRAME.pack(2) + b"ok" + outcome_codec.FRAME.pack(declared)
    with pytest.raises(DecodeError, match="inside a frame"):
        outcome_codec.split_frames(raw)
    assert peak_bytes(raw, outcome_codec.split_frames) < 10_000


def test_what_is_remembered_of_descriptors_is_bounded() -> None:
    for number in range(3000):
        decode(a_job(data=b"\0", descriptor=codec.pack_columns([(f"x{number}", "uint8", ())])))
    assert len(codec._descriptors) <= codec._REMEMBERED
