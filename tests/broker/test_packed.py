"""Our own packing of large commands gives what hiredis gives."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest

from broker.connection import Link
from broker.packed import LARGE_BYTES, packed

LARGE = b"\r\n$3" * LARGE_BYTES


@pytest.mark.parametrize(
    "command",
    [
        ("PING",),
        ("SET", "k\u00e9", b"v"),
        ("SET", "k\u00e9", LARGE),
        ["EVALSHA", "a" * 40, 2, b"k", "", 17, -1.5, memoryview(b"view"), b"", LARGE],
    ],
)
def test_a_command_is_packed_as_hiredis_packs_it(command: Any) -> None:
    assert packed([command]) == hiredis.pack_command(tuple(command))
    assert packed([command, ("PING",), command]) == packed([command]) + packed([("PING",)]) + packed([command])


def test_nothing_to_send_is_nothing() -> None:
    assert packed([]) == b""


def test_redis_reads_what_was_packed(link: Link) -> None:
    link.call("SET", "penstock:{t}:x", LARGE)
    assert link.call("GET", "penstock:{t}:x") == LARGE
    link.call("DEL", "penstock:{t}:x")
