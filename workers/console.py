"""Standard output and error of a slot and its engine: pipes to supervisord, which may be gone or stand still.

What cannot be written is dropped: a broken pipe is an OSError, and would elsewhere mean that Redis was lost, or that a job's
own code failed.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from typing import Any

import msgspec

STDOUT, STDERR = 1, 2


class _Lasting(io.FileIO):
    """A descriptor whose writes never fail."""

    def write(self, data: Any, /) -> int:
        try:
            written = super().write(data)
        except OSError:
            return memoryview(data).nbytes
        return memoryview(data).nbytes if written is None else written


def outlast() -> None:
    """From now on neither a log line nor a model's own print raises for want of a reader."""
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            io.BufferedWriter(_Lasting(fd, "wb", closefd=False)),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        for fd in (STDOUT, STDERR)
    )


def mute() -> None:
    """Nobody reads any more. Takes no lock: safe in a signal handler."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, STDOUT)
        os.dup2(null, STDERR)
        os.close(null)


def warn(event: str, **fields: Any) -> None:
    """A warning of the engine, as the slot's log has them; the engine loads no logger for its few."""
    print(msgspec.json.encode({**fields, "event": event, "level": "warning"}).decode(), file=sys.stderr)


def last_line(event: str, **fields: str) -> None:
    """One log line of a process that ends now: waits neither for a reader nor for what another thread holds."""
    line = msgspec.json.encode({**fields, "event": event, "level": "error"}) + b"\n"
    with contextlib.suppress(OSError):
        poller = select.poll()
        poller.register(STDERR, select.POLLOUT)
        if any(seen & select.POLLOUT for _, seen in poller.poll(0)):  # of a pipe: a page is free
            os.write(STDERR, line[: select.PIPE_BUF])
