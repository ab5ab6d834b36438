"""Commands as the bytes Redis reads. Nothing here sends them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import hiredis

LARGE_BYTES = 2048  # of an argument: from there one join is quicker than hiredis, by fifty times at 64 KB
ALONE_BYTES = 65536  # from there it is not copied at all: to fault in the memory of a copy costs more than to make it

Arg: TypeAlias = str | bytes | int | float | memoryview
Command: TypeAlias = Sequence[Arg]
Buffer: TypeAlias = bytes | memoryview


def buffers(commands: Iterable[Sequence[Any]]) -> list[Buffer]:
    """All commands, one after the other, to be sent in this order: large arguments as they are, all between them in one piece.

    Large ones are looked for where ours have them: the value of a SET, else the last one.
    """
    done: list[Buffer] = []
    parts: list[Buffer] = []
    for command in commands:
        value = command[2] if command[0] == "SET" else command[-1]
        if not isinstance(value, Buffer) or len(value) < LARGE_BYTES:
            parts.append(hiredis.pack_command(tuple(command)))
            continue
        parts.append(b"*%d\r\n" % len(command))
        for arg in command:
            raw = arg if isinstance(arg, Buffer) else str(arg).encode()
            parts.append(b"$%d\r\n" % len(raw))
            if len(raw) >= ALONE_BYTES:
                done += (b"".join(parts), raw)
                parts = [b"\r\n"]
            else:
                parts += (raw, b"\r\n")
    done.append(parts[0] if len(parts) == 1 else b"".join(parts))
    return done


def packed(commands: Iterable[Sequence[Any]]) -> bytes:
    """As `buffers`, in one piece."""
    found = buffers(commands)
    return bytes(found[0]) if len(found) == 1 else b"".join(found)
