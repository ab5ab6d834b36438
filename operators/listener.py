"""supervisord's event listener protocol: READY, an event, RESULT. Reads one byte stream, writes another, knows no slots.

There is no way to find the next event after a header that cannot be read: then the stream is over, supervisord starts the
listener again and sends what was not answered once more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

READY = b"READY\n"
DONE = b"RESULT 2\nOK"
LONGEST_HEADER = 8192
LONGEST_PAYLOAD = 1 << 20
# Read from its end: the identifier at its front is our pool's configuration path and may hold spaces and colons.
_TAIL = re.compile(rb" eventname:([A-Z0-9_]{1,64}) len:(\d{1,8})\n")


class Garbled(Exception):
    """The stream is not supervisord's protocol, or broke off inside an event."""


class Event(msgspec.Struct, frozen=True):
    """One event: `PROCESS_STATE_EXITED` and such, with the payload's fields."""

    name: str
    fields: dict[str, str]

    @property
    def process(self) -> str:
        return self.fields.get("processname", "")

    @property
    def pid(self) -> int:
        pid = self.fields.get("pid", "")
        return int(pid) if pid.isdigit() else 0


def listen(source: BinaryIO, answers: BinaryIO) -> Iterator[Event]:
    """Events until the stream ends. Each is answered when the next is asked for. Raises Garbled."""
    while True:
        _write(answers, READY)
        event = read(source)
        if event is None:
            return
        yield event
        _write(answers, DONE)


def read(source: BinaryIO) -> Event | None:
    """The next event, or None at the end of the stream. Raises Garbled."""
    header = source.readline(LONGEST_HEADER)
    if not header:
        return None
    found = _TAIL.search(header)
    if found is None or found.end() != len(header):
        raise Garbled(f"no header of an event: {header[:100]!r}")
    length = int(found[2])
    if length > LONGEST_PAYLOAD:
        raise Garbled(f"an event of {length} bytes")
    payload = source.read(length)
    if len(payload) < length:
        raise Garbled(f"the stream ended {length - len(payload)} bytes inside an event")
    return Event(found[1].decode(), parse(payload.decode(errors="replace")))


def parse(payload: str) -> dict[str, str]:
    """`processname:slot_00 groupname:slot pid:12` as a dict; what is no pair is left out."""
    pairs = (part.partition(":") for part in payload.split())
    return {name: value for name, colon, value in pairs if colon}


def _write(answers: BinaryIO, text: bytes) -> None:
    answers.write(text)
    answers.flush()
