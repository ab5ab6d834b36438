"""Our own packing of large commands gives what hiredis gives."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest

from broker.connection import Link
from broker.packed import ALONE_BYTES, LARGE_BYTES, buffers, packed

LARGE = b"\r\n$3" * LARGE_BYTES


@pytest.mark.parametrize(
    "command",
    [
        ("PING",),
        ("SET", "k\u00e9", b"v"),
        ("SET", "k\u00e9", LARGE),
        ("SET", "k\u00e9", LARGE, "PX", 60_000, "NX"),
        ("SET", "k", memoryview(LARGE * 20), "PX", 60_000, "NX"),
        ["EVALSHA", "a" * 40, 1, "k", LARGE * 20, "small", LARGE * 20],
        ["EVALSHA", "a" * 40, 2, b"k", "", 17, -1.5, memoryview(b"view"), b"", LARGE],
    ],
)
def test_a_command_is_packed_as_hiredis_packs_it(command: Any) -> None:
    assert packed([command]) == hiredis.pack_command(tuple(command))
    assert packed([command, ("PING",), command]) == packed([command]) + packed([("PING",)]) + packed([command])


def test_very_large_arguments_are_sent_as_they_are_without_a_copy() -> None:
    body, other = bytes(ALONE_BYTES), memoryview(bytearray(2 * ALONE_BYTES))
    found = buffers([("PING",), ("SET", "k", body, "PX", 1), ("SET", "l", other, "NX"), ("PING",)])
    assert [one for one in found if len(one) >= ALONE_BYTES] == [body, other]
    assert any(one is body for one in found)
    assert any(one is other for one in found)


def test_nothing_to_send_is_nothing() -> None:
    assert packed([]) == b""


def test_redis_reads_what_was_packed(link: Link) -> None:
    link.call("SET", "penstock:{t}:x", LARGE)
    assert link.call("GET", "penstock:{t}:x") == LARGE
    link.call("DEL", "penstock:{t}:x")
