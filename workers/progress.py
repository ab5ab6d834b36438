"""One shared page on which the engine stamps that it gets on, and from which its slot reads when it last did.

A memfd passed to the engine like the slabs, so that a stamp costs no system call and no message. Both sides read
CLOCK_MONOTONIC, which all processes of a host share. The engine alone writes. Not a heartbeat: a stamp says that a phase
of the work ended, never that a thread is alive.
"""

from __future__ import annotations

import mmap
import os
import time

COUNT, AT_NS, NUMBER = 0, 1, 2  # cells of 8 bytes, each stored whole: a reader sees the old or the new value


class Progress:
    """The page. `fd` may be passed to a child, which opens the same page with `Progress(fd)`."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = os.memfd_create("penstock-progress") if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, mmap.PAGESIZE)
        self._cells = memoryview(mmap.mmap(self.fd, mmap.PAGESIZE)).cast("Q")

    def stamp(self) -> None:
        """The engine ended a phase."""
        self._cells[COUNT] += 1
        self._cells[AT_NS] = time.monotonic_ns()

    def turn_to(self, number: int) -> None:
        """The engine works on the batch of that number from now on."""
        self._cells[NUMBER] = number
        self.stamp()

    @property
    def number(self) -> int:
        """Of the batch it worked on last; 0 before the first."""
        return self._cells[NUMBER]

    @property
    def count(self) -> int:
        """How many phases have ended."""
        return self._cells[COUNT]

    @property
    def at_s(self) -> float:
        """When the last one did, as time.monotonic() tells it; 0.0 before the first."""
        return self._cells[AT_NS] / 1e9

    def close(self) -> None:
        """Gives the descriptor back; the page stays until its last view is gone."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
