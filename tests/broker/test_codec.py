"""The bytes on the wire: what is written is read back, and garbage is refused before anything is allocated for it."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker import codec
from broker.errors import DecodeError
from broker.messages import Job, Kind, Outcome, Signature, Status

fuzz = settings(max_examples=300, deadline=None, database=None)

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
    fields = {"kind": Kind.TENSORS, "is_one_row": True, "is_stored": True, "retries": 3, "result_ttl_s": 60,
              "descriptor": codec.pack_columns([("x", "float32", (2,))])} | head  # fmt: skip
    start, tail = codec.encode_job_head(rows=rows, context=context, **fields)
    return codec.encode_job(start, b"ab-7", tail, data)


def an_outcome(**parts: Any) -> bytes:
    columns = codec.pack_columns([("x", "float32", (2,))])
    fields = {"attempt": 1, "timings": (1.0, 0.5, 0.25, 1.75), "data": struct.pack("<2f", 1, 2),
              "descriptor": codec.pack_outcome_descriptor("v1", 1, columns), "note": {"n": 1}} | parts  # fmt: skip
    return codec.encode_outcome("ab-7", Status.DONE | codec.OUTCOME_ONE_ROW, **fields)


def decode(blob: bytes) -> Job:
    return codec.decode_job(blob, entry=b"5-0", lane=1, deliveries=2, submitted_ms=5, attempt=3, deadline_ms=9)


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


# --- golden bytes ----------------------------------------------------------------------------


def test_a_job_of_format_1_is_these_bytes() -> None:
    # given
    blob = a_job(data=struct.pack("<2f", 1, 2), context={"t": "1"})
    # then
    assert blob.hex() == GOLDEN_JOB.hex()
    assert (codec.JOB_HEAD.size, codec.OUTCOME_HEAD.size) == (16, 24)


def test_an_outcome_of_format_1_is_these_bytes() -> None:
    assert an_outcome().hex() == GOLDEN_OUTCOME.hex()


def test_the_golden_job_reads_as_it_was_meant() -> None:
    # when
    job = decode(GOLDEN_JOB)
    # then
    assert (job.id, job.rows, job.retries, job.result_ttl_s, job.is_stored) == ("ab-7", 1, 3, 60, True)
    assert (job.entry, job.lane, job.deliveries, job.attempt, job.deadline_ms) == (b"5-0", 1, 2, 3, 9)
    assert job.data[job.offset :] == struct.pack("<2f", 1, 2)
    assert job.context == {"t": "1"}
    assert job.size == len(GOLDEN_JOB)


def test_the_golden_outcome_reads_as_it_was_meant() -> None:
    # when
    outcome = codec.decode_outcome(GOLDEN_OUTCOME)
    # then
    assert (outcome.id, outcome.status, outcome.version, outcome.rows) == ("ab-7", Status.DONE, "v1", 1)
    assert (outcome.timings.queue_ms, outcome.timings.total_ms) == (1.0, 1.75)
    assert outcome.columns[0].shape == (2,)
    assert outcome.note == {"n": 1}


def test_the_codes_of_the_dtypes_never_move() -> None:
    assert codec.DTYPES == (
        "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
    )  # fmt: skip


# --- round trips -----------------------------------------------------------------------------

columns = st.lists(
    st.tuples(st.text(max_size=20), st.sampled_from(codec.DTYPES), st.lists(st.integers(0, 4), max_size=8).map(tuple)),
    max_size=6,
)


@fuzz
@given(columns)
def test_columns_come_back_as_they_were_packed(packed: list[tuple[str, str, tuple[int, ...]]]) -> None:
    found = codec.unpack_columns(codec.pack_columns(packed))
    assert [(column.name, column.dtype, column.shape) for column in found] == packed


@fuzz
@given(st.integers(1, 5), st.binary(min_size=2, max_size=2), st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_a_job_comes_back_as_it_was_encoded(rows: int, row: bytes, retries: int, ttl_s: int) -> None:
    # given
    tensors = codec.pack_columns([("a", "uint8", ()), ("b", "bool", (1,))])
    # when
    job = decode(a_job(data=row * rows, rows=rows, retries=retries, result_ttl_s=ttl_s, descriptor=tensors))
    # then
    assert (job.rows, job.retries, job.result_ttl_s, job.signature.row_bytes) == (rows, retries, ttl_s, 2)
    assert bytes(job.data[job.offset :]) == row * rows


@fuzz
@given(st.sampled_from(Status), st.binary(max_size=40), st.dictionaries(st.text(max_size=5), st.text(), max_size=3))
def test_an_outcome_comes_back_as_it_was_encoded(status: Status, data: bytes, note: dict[str, str]) -> None:
    # when
    blob = codec.encode_outcome("ab-7", status, attempt=2, timings=(1, 2, 3, 4), note=note, data=data)
    outcome = codec.decode_outcome(blob)
    # then
    assert (outcome.status, outcome.attempt, outcome.data, outcome.note) == (status, 2, data, note)
    assert codec.outcome_id(blob) == outcome.id == "ab-7"


def test_a_failure_keeps_its_reason_and_at_most_2000_characters_of_its_text() -> None:
    # when
    outcome = codec.decode_outcome(codec.encode_failure(decode(a_job()), Status.FAILED, reason="nan", text="é" * 5000))
    # then
    assert outcome.note == {"reason": "nan", "error": "é" * 2000}


def test_raw_jobs_carry_bytes_without_a_signature() -> None:
    job = decode(a_job(kind=Kind.TEXT, data=b"any length at all", descriptor=b""))
    assert (job.signature, bytes(job.data[job.offset :])) == (Signature((), 0), b"any length at all")


@fuzz
@given(st.lists(st.binary(max_size=30), max_size=10))
def test_frames_come_back_as_they_were_joined(frames: list[bytes]) -> None:
    raw = b"".join(codec.FRAME.pack(len(frame)) + frame for frame in frames)
    assert codec.split_frames(raw) == frames


# --- garbage ---------------------------------------------------------------------------------


@fuzz
@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_decode_errors(raw: bytes) -> None:
    for read in (decode, codec.decode_outcome, codec.unpack_columns, codec.split_frames, codec.read_head):
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
        for read in (decode, codec.decode_outcome):
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
        codec.decode_outcome(GOLDEN_OUTCOME[:cut])


@pytest.mark.parametrize("read", [decode, codec.decode_outcome])
def test_a_newer_format_is_refused_with_the_mend(read: Any) -> None:
    golden = GOLDEN_JOB if read is decode else GOLDEN_OUTCOME
    with pytest.raises(DecodeError, match="format 2 is newer than 1: upgrade"):
        read(b"\x02" + golden[1:])


@pytest.mark.parametrize("nested", [b"\x91" * 60_000, b"\x81\xa1a" * 20_000], ids=["arrays", "maps"])
def test_a_context_nested_too_deep_is_refused(nested: bytes) -> None:
    # given: what a decoder that recurses dies of
    context = b"\x81\xa1a" + nested
    head = codec.JOB_HEAD.pack(1, Kind.BYTES, 4, 0, 1, 0, 0, len(context))
    outcome = codec.OUTCOME_HEAD.pack(1, Status.DONE, 1, 4, 0, 0, 0, 0, 0, len(context))
    # then
    with pytest.raises(DecodeError, match="garbled"):
        decode(head + b"ab-7" + context)
    with pytest.raises(DecodeError, match="garbled"):
        codec.decode_outcome(outcome + b"ab-7" + context)


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
    assert peak_bytes(HUGE[name], decode) < 100_000


@pytest.mark.parametrize("rows", [2, 0xFFFFFFFF])
def test_an_outcome_that_declares_more_than_it_holds_is_refused_before_anything_is_allocated(rows: int) -> None:
    # given
    tensors = codec.pack_columns([("y", "float32", (2,))])
    blob = an_outcome(descriptor=codec.pack_outcome_descriptor("1", rows, tensors))
    # then
    with pytest.raises(DecodeError, match="8 bytes of data"):
        codec.decode_outcome(blob)
    assert peak_bytes(blob, codec.decode_outcome) < 100_000


@pytest.mark.parametrize("declared", [1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_frame_longer_than_its_reply_is_refused_before_anything_is_allocated(declared: int) -> None:
    raw = codec.FRAME.pack(2) + b"ok" + codec.FRAME.pack(declared)
    with pytest.raises(DecodeError, match="inside a frame"):
        codec.split_frames(raw)
    assert peak_bytes(raw, codec.split_frames) < 10_000


def test_what_is_remembered_of_descriptors_is_bounded() -> None:
    for number in range(3000):
        decode(a_job(data=b"\0", descriptor=codec.pack_columns([(f"x{number}", "uint8", ())])))
    assert len(codec._descriptors) <= codec._REMEMBERED
