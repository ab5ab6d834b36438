"""The bytes on the wire: format 1 as it was written down, and what is written is read back."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from broker import codec, outcome_codec
from broker.messages import Kind, Signature, Status
from tests.broker.letters import GOLDEN_JOB, GOLDEN_OUTCOME, a_job, an_outcome, decode

fuzz = settings(max_examples=200, deadline=None, database=None)


# --- golden bytes ----------------------------------------------------------------------------


def test_a_job_of_format_1_is_these_bytes() -> None:
    # given
    blob = a_job(data=struct.pack("<2f", 1, 2), context={"t": "1"})
    # then
    assert blob.hex() == GOLDEN_JOB.hex()
    assert (codec.JOB_HEAD.size, outcome_codec.HEAD.size) == (16, 24)


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
    outcome = outcome_codec.decode(GOLDEN_OUTCOME)
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
    blob = outcome_codec.encode("ab-7", status, attempt=2, timings=(1, 2, 3, 4), note=note, data=data)
    outcome = outcome_codec.decode(blob)
    # then
    assert (outcome.status, outcome.attempt, outcome.data, outcome.note) == (status, 2, data, note)
    assert outcome_codec.id_of(blob) == outcome.id == "ab-7"


def test_a_failure_keeps_its_reason_and_at_most_2000_characters_of_its_text() -> None:
    # when
    outcome = outcome_codec.decode(
        outcome_codec.encode_failure(decode(a_job()), Status.FAILED, reason="nan", text="é" * 5000)
    )
    # then
    assert outcome.note == {"reason": "nan", "error": "é" * 2000}


def test_raw_jobs_carry_bytes_without_a_signature() -> None:
    job = decode(a_job(kind=Kind.TEXT, data=b"any length at all", descriptor=b""))
    assert (job.signature, bytes(job.data[job.offset :])) == (Signature((), 0), b"any length at all")


@fuzz
@given(st.lists(st.binary(max_size=30), max_size=10))
def test_frames_come_back_as_they_were_joined(frames: list[bytes]) -> None:
    raw = b"".join(outcome_codec.FRAME.pack(len(frame)) + frame for frame in frames)
    assert outcome_codec.split_frames(raw) == frames
