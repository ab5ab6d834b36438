"""Commands as the bytes Redis reads. Nothing here sends them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import hiredis

LARGE_BYTES = 2048  # of an argument: from there one join is quicker than hiredis, by fifty times at 64 KB


def packed(commands: Iterable[Sequence[Any]]) -> bytes:
    """All commands, one after the other. Large arguments are looked for where ours have them: at the end."""
    parts: list[bytes | memoryview] = []
    for command in commands:
        last = command[-1]
        if not isinstance(last, bytes) or len(last) < LARGE_BYTES:
            parts.append(hiredis.pack_command(tuple(command)))
            continue
        parts.append(b"*%d\r\n" % len(command))
        for arg in command:
            raw = arg if isinstance(arg, bytes | memoryview) else str(arg).encode()
            parts += (b"$%d\r\n" % len(raw), raw, b"\r\n")
    return b"".join(parts)
