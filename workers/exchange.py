"""What slot and engine say to each other over their socket pair. Payloads travel in the slabs, not here.

Messages are msgpack arrays over SOCK_SEQPACKET: one message, one packet, no framing. A closed socket means the other is
gone: the engine exits, the slot blames the batch.
"""

from __future__ import annotations

import socket
import threading
from typing import TypeVar

import msgspec

from broker.errors import DecodeError

PACKET_BYTES = 1 << 20
T = TypeVar("T")


class Run(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """One forward: `rows` real rows in slab `slab`, padded to `bucket` rows and to `dims` in the varying dimensions.

    `lengths` is set for raw input: the bytes of each item, one after the other from the start of the input region. `forwards`
    above 1: a chain, so many forwards of as many rows each, one after the other.
    """

    seq: int
    slab: int
    rows: int
    bucket: int
    dims: tuple[int, ...] = ()
    lengths: list[int] | None = None
    forwards: int = 1


class Measure(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Asks for a Measured, at an idle point."""


class Note(msgspec.Struct, frozen=True, array_like=True):
    """Something about one row: it failed (`is_error`), or a bound that only flags was broken."""

    row: int
    is_error: bool
    reason: str
    text: str


class Ran(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The end of a Run. Outputs lie in the slab's output region: as tensors laid out for `bucket` rows, or, when
    `value_lengths` is set, as one msgpack value per row. `error` is set when the whole batch failed."""

    seq: int
    forward_ms: float
    columns: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    value_lengths: list[int] | None = None
    notes: list[Note] = []
    error: str = ""
    reason: str = ""


class Measured(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Memory of the engine: anonymous host bytes after gc and malloc_trim, device bytes or None where unknown."""

    host_bytes: int
    device_bytes: int | None = None


class Timed(msgspec.Struct, frozen=True, array_like=True):
    """One cell of the table T: the forward of `rows` padded rows at `dims` took `ms` (median of the warm-up)."""

    rows: int
    dims: tuple[int, ...]
    ms: float


class TooLarge(msgspec.Struct, frozen=True, array_like=True):
    """A batch of `rows` padded rows at `dims` found no room on the device in the warm-up."""

    rows: int
    dims: tuple[int, ...]


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The engine is loaded and every bucket is warm, except those in `too_large` and larger ones of the same dims."""

    pid: int
    device: str
    load_s: float
    usage: Measured
    times: list[Timed]
    too_large: list[TooLarge] = []


class LoadFailed(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The model cannot be served; `text` is one line with the mend."""

    text: str


ToEngine = Run | Measure
FromEngine = Ran | Measured | Ready | LoadFailed

encode = msgspec.msgpack.Encoder().encode
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_from_engine = msgspec.msgpack.Decoder(FromEngine)


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair: the slot's end and the engine's."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PACKET_BYTES)
    return ends


def read_for_engine(end: socket.socket) -> ToEngine | None:
    """The next message for the engine; None when the slot is gone. Raises DecodeError."""
    return _read(end, _to_engine)


def read_for_slot(end: socket.socket) -> FromEngine | None:
    """The next message for the slot; None when the engine is gone. Raises DecodeError."""
    return _read(end, _from_engine)


class _Kept(threading.local):
    """A thread's buffer for packets: to make one of the largest size for each is to map, fault in and unmap memory each time."""

    def __init__(self) -> None:
        self.buffer = bytearray(PACKET_BYTES)


_kept = _Kept()


def _read(end: socket.socket, decoder: msgspec.msgpack.Decoder[T]) -> T | None:
    buffer = _kept.buffer
    try:
        size = end.recv_into(buffer)
    except ConnectionResetError:
        return None
    return _decoded(decoder, memoryview(buffer)[:size]) if size else None


def _decoded(decoder: msgspec.msgpack.Decoder[T], packet: bytes | memoryview) -> T:
    try:
        return decoder.decode(packet)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # ValueError: text that is not UTF-8
        raise DecodeError(f"a message between slot and engine is garbled: {error}") from None
