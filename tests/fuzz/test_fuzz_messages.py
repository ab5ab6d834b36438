"""Whatever comes over a wire is a message or a DecodeError, and costs no more memory than it has bytes for."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from broker import bodies, codec, outcome_codec, spec
from broker.answer import Answer
from broker.errors import DecodeError, UnknownModel
from broker.intake import state_of
from broker.messages import Job, Outcome, Status
from tests.broker.letters import decode
from tests.fuzz.conftest import fuzz
from tests.fuzz.strategies import descriptors, jobs, outcomes, read_within, spoiled
from workers import exchange
from workers.exchange import Ran, Run


@fuzz
@given(spoiled(jobs()))
def test_any_bytes_are_a_job_or_a_decode_error(blob: bytes) -> None:
    job = read_within(decode, blob)
    if isinstance(job, Job):
        apart = job.body.size if job.body is not None else 0
        assert job.size == len(blob) + apart
        assert job.kind or (apart or len(blob) - job.offset) == job.rows * job.signature.row_bytes
    else:
        read_within(codec.read_head, blob)


@fuzz
@given(spoiled(outcomes()))
def test_any_bytes_are_an_outcome_or_a_decode_error(blob: bytes) -> None:
    outcome = read_within(outcome_codec.decode, blob)
    assert outcome is None or isinstance(outcome, Outcome)
    outcome_codec.id_of(blob)
    if isinstance(outcome, Outcome):
        assert state_of(blob) == Status(outcome.status).name.lower()


@fuzz
@given(spoiled(descriptors()))
def test_any_bytes_are_a_descriptor_or_a_decode_error(raw: bytes) -> None:
    read_within(codec.unpack_columns, raw)


@fuzz
@given(
    spoiled(
        st.lists(outcomes(), max_size=3).map(lambda all_: b"".join(outcome_codec.FRAME.pack(len(o)) + o for o in all_))
    )
)
def test_any_bytes_are_frames_or_a_decode_error(raw: bytes) -> None:
    for frame in read_within(outcome_codec.split_frames, raw) or ():  # type: ignore[attr-defined]
        read_within(outcome_codec.decode, frame)


@fuzz
@given(spoiled(st.just(bodies.encode(bodies.refer("redis", "abc-1", b"data")))))
def test_any_bytes_are_a_reference_or_a_decode_error(raw: bytes) -> None:
    read_within(bodies.decode, raw)


@fuzz
@given(spoiled(st.just(msgspec.msgpack.encode(("ok", "1-1", 1, 0, "", [0, "a-1"])))))
def test_any_bytes_are_an_answer_to_a_submit_or_a_decode_error(raw: bytes) -> None:
    read_within(Answer.read, raw)


BODY = msgspec.json.encode(spec.ModelSpec("m", "1", "tensors", (spec.TensorSpec("x", "float32", (4,)),), (), 8))


@fuzz
@given(st.lists(st.none() | spoiled(st.sampled_from([BODY, b"9", b"abc", b"redis"])), min_size=8, max_size=8))
def test_any_fields_are_a_published_spec_or_a_decode_error(values: list[bytes | None]) -> None:
    try:
        assert isinstance(spec.read("m", values), spec.Published)
    except (DecodeError, UnknownModel):
        pass


MESSAGES: list[Any] = [Run(1, 0, 4, 8, (2,), [1, 2]), Ran(1, 0.5, (("y", "float32", (2,)),), [3], [], "", "")]


@fuzz
@given(spoiled(st.sampled_from([exchange.encode(message) for message in MESSAGES])))
def test_any_packet_between_slot_and_engine_is_a_message_or_a_decode_error(packet: bytes) -> None:
    for decoder in (exchange._to_engine, exchange._from_engine):
        read_within(lambda raw, decoder=decoder: exchange._decoded(decoder, raw), packet)  # type: ignore[misc]
