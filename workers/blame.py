"""Which jobs are in the engine right now, on a page that outlives a kill -9: var/slot-N.batch.

The slot notes a batch before it hands it over and clears it when the answer came; the slot's next life reads who was in the
engine when this one was killed. Only stores to a mapped file, so it costs a batch no system call. The page cache keeps it
when the process dies; when the host does, nobody asks: its leases are swept.

    length u32 | life, 28 bytes | payload: one byte per job with its lane, a space, the entries joined by spaces

The length is 0 while the payload changes: killed at any moment, the page holds the old batch, none, or the new one whole.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path

from broker.errors import ConfigError
from broker.messages import Job

LIFE_AT, LIFE_BYTES, BATCH_AT = 4, 28, 32
PAGE_BYTES = 256 << 10  # more than ten thousand jobs; those past it are not noted


class Blame:
    """The page of one slot; one process at a time has it, the one that holds the slot's lock."""

    def __init__(self, folder: Path, number: int) -> None:
        """Raises ConfigError where the file cannot be made."""
        path = folder / f"slot-{number}.batch"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, PAGE_BYTES)  # a store to a hole on a full disk would be SIGBUS
                self._page = mmap.mmap(fd, PAGE_BYTES)
            finally:
                os.close(fd)
        except OSError as error:
            raise ConfigError(
                f"cannot write {path}: {error.strerror}; free {PAGE_BYTES >> 10} KB there, or set pool.var_dir to a folder of yours"
            ) from None
        self._view = memoryview(self._page)
        self._length = self._view[:LIFE_AT].cast("I")
        self.is_ours = False  # before `begin` it tells of the life before

    def begin(self, life: str) -> None:
        """Empties the page for this life; before that, `read` gives what the one before left."""
        self._length[0] = 0
        self._page[LIFE_AT:BATCH_AT] = life.encode()[:LIFE_BYTES].ljust(LIFE_BYTES, b"\0")
        self.is_ours = True

    def note(self, jobs: list[Job]) -> None:
        """These go to the engine now."""
        payload = bytes([job.lane for job in jobs]) + b" " + b" ".join([job.entry for job in jobs])
        length = min(len(payload), PAGE_BYTES - BATCH_AT)
        self._length[0] = 0
        self._page[BATCH_AT : BATCH_AT + length] = payload[:length]
        self._length[0] = length

    def clear(self) -> None:
        """The engine has answered."""
        self._length[0] = 0

    def read(self) -> tuple[str, set[tuple[int, bytes]]]:
        """The life that wrote the page, and (lane, entry) of the jobs that were in its engine."""
        length = min(self._length[0], PAGE_BYTES - BATCH_AT)
        life = bytes(self._page[LIFE_AT:BATCH_AT]).rstrip(b"\0").decode(errors="replace")
        payload = bytes(self._page[BATCH_AT : BATCH_AT + length])
        return life, set(_jobs(payload))

    def close(self) -> None:
        """Lets the mapping go; what is on the page stays."""
        self._length.release()
        self._view.release()
        self._page.close()


def _jobs(payload: bytes) -> Iterable[tuple[int, bytes]]:
    # The lanes are 0, 1 and 2, the space is 32: the first space ends them.
    lanes, _, entries = payload.partition(b" ")
    return zip(lanes, entries.split(), strict=False)
