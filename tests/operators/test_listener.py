"""supervisord's protocol as a byte stream, whole, cut and garbled."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.listener import LONGEST_PAYLOAD, Event, Garbled, listen, read


def sent(name: str, payload: str, *, server: str = "/pools/a b: c/pool.toml, state in /var") -> bytes:
    """An event as supervisord writes it; the identifier is the pool's path and may hold anything."""
    head = f"ver:3.0 server:{server} serial:21 pool:agent poolserial:10 eventname:{name} len:{len(payload)}\n"
    return (head + payload).encode()


EXITED = sent("PROCESS_STATE_EXITED", "processname:slot_00 groupname:slot from_state:RUNNING expected:0 pid:2766")


def test_each_event_is_answered_before_the_next_is_asked_for() -> None:
    source, answers = BytesIO(EXITED + sent("TICK_5", "when:1795307254")), BytesIO()
    told = []
    for event in listen(source, answers):
        told.append(event)
        assert answers.getvalue().count(b"RESULT") == len(told) - 1
    assert told[0] == Event("PROCESS_STATE_EXITED", {"processname": "slot_00", "groupname": "slot",
                                                      "from_state": "RUNNING", "expected": "0", "pid": "2766"})  # fmt: skip
    assert (told[0].process, told[0].pid, told[1].name, told[1].pid) == ("slot_00", 2766, "TICK_5", 0)
    assert answers.getvalue() == b"READY\nRESULT 2\nOKREADY\nRESULT 2\nOKREADY\n"


def test_the_end_of_the_stream_ends_the_listener_quietly() -> None:
    assert list(listen(BytesIO(b""), BytesIO())) == []


@pytest.mark.parametrize("cut", [5, len(EXITED) - 60, len(EXITED) - 1])
def test_a_stream_that_breaks_off_inside_an_event_is_told_apart_from_its_end(cut: int) -> None:
    with pytest.raises(Garbled):
        read(BytesIO(EXITED[:cut]))


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n", b"\x00\xff" * 40 + b"\n", b"ver:3.0 eventname:TICK_5\n", b"ver:3.0 eventname:TICK_5 len:x\n",
        b"ver:3.0 eventname:TICK_5 len:-1\n", b"x" * 100_000, f"v eventname:TICK_5 len:{LONGEST_PAYLOAD + 1}\n".encode(),
    ],
)  # fmt: skip
def test_a_garbled_header_ends_the_stream(garbage: bytes) -> None:
    with pytest.raises(Garbled):
        read(BytesIO(garbage + EXITED))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_an_event_or_the_end_or_garbled(stream: bytes) -> None:
    try:
        event = read(BytesIO(stream))
    except Garbled:
        return
    assert event is None or event.name


def test_a_payload_that_is_no_pairs_is_an_event_without_fields() -> None:
    event = read(BytesIO(sent("TICK_5", "nothing of the kind pid:")))
    assert event is not None
    assert (event.fields, event.pid) == ({"pid": ""}, 0)
