"""What restarts slots one after another runs alone on its host, and ends as by Ctrl-C however it is told to end."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from broker import embedded
from broker.errors import SupervisorError
from broker.settings import Settings

ENDS = (signal.SIGTERM, signal.SIGHUP)  # kill, and a terminal that closes


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """For the block. Raises SupervisorError while another one runs: two would take two slots away at a time."""
    path = settings.var / "restart.lock"
    lock = embedded.take_lock(path)
    if lock is None:
        holder = path.read_text().strip() or "unknown"
        raise SupervisorError(f"another restart or reload (pid {holder}) is under way; try again after it")
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        with _interrupted_by_any():
            yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


@contextmanager
def _interrupted_by_any() -> Iterator[None]:
    """What is under way is brought to an end that is whole, as with Ctrl-C. Under nohup the terminal may close."""
    if threading.current_thread() is not threading.main_thread():
        yield  # who calls us from a thread has its own signals
        return
    before = {one: signal.getsignal(one) for one in ENDS if signal.getsignal(one) is not signal.SIG_IGN}
    try:
        for one in before:
            signal.signal(one, _interrupt)
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
