"""What the slot's loop sleeps on: descriptors that become readable, and a wake-up from signal handlers and other threads."""

from __future__ import annotations

import os
import select
from collections.abc import Collection


class Doorbell:
    """A poll set that follows what is watched, with a pipe of its own in it."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poller = select.poll()
        self._poller.register(self._read, select.POLLIN)
        self._watched: tuple[int, ...] = ()

    def ring(self) -> None:
        """Ends the wait, or the next one."""
        try:
            os.write(self._write, b"!")
        except BlockingIOError:
            pass  # full of rings that were not heard yet

    def wait(self, fds: tuple[int, ...], wait_ms: float) -> Collection[int]:
        """Which of the descriptors (those below 0 are none) are readable, after at most `wait_ms`."""
        if fds != self._watched:
            for fd in set(self._watched) - set(fds) - {-1}:
                self._poller.unregister(fd)
            for fd in set(fds) - set(self._watched) - {-1}:
                self._poller.register(fd, select.POLLIN)
            self._watched = fds
        ready = dict(self._poller.poll(wait_ms))
        if self._read in ready:
            os.read(self._read, 64)
        return ready

    def close(self) -> None:
        """Nobody may ring any more."""
        for fd in (self._read, self._write):
            os.close(fd)
