"""Which jobs are in the engine right now, on a page that outlives a kill -9: var/slot-N.batch.

The slot notes a batch before it hands it over and clears it when the answer came; the slot's next life reads who was in the
engine when this one was killed. Only stores to a mapped file, so it costs a batch no system call. The page cache keeps it
when the process dies; when the host does, nobody asks: its leases are swept.

    life, 32 bytes | two places, one for the batch that runs and one for the batch sent ahead, which take turns:
    length u32 | number u32 | payload: one byte per job with its lane, a space, the entries joined by spaces

A length is 0 while its payload changes: killed at any moment, a place holds the old batch, none, or the new one whole.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path

from broker.errors import ConfigError
from broker.messages import Job

LIFE_BYTES, HEAD_BYTES, PLACES = 32, 8, 2
PLACE_BYTES = 256 << 10  # more than ten thousand jobs; those past it are not noted
PAGE_BYTES = LIFE_BYTES + PLACES * PLACE_BYTES


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
        starts = range(LIFE_BYTES, PAGE_BYTES, PLACE_BYTES)
        self._heads = [self._view[at : at + HEAD_BYTES].cast("I") for at in starts]  # length, number
        self._payloads = [at + HEAD_BYTES for at in starts]
        self.is_ours = False  # before `begin` it tells of the life before

    def begin(self, life: str) -> None:
        """Empties the page for this life; before that, `read` gives what the one before left."""
        self.clear()
        self._page[:LIFE_BYTES] = life.encode()[:LIFE_BYTES].ljust(LIFE_BYTES, b"\0")
        self.is_ours = True

    def note(self, number: int, jobs: list[Job]) -> None:
        """These go to the engine now, as its batch of that number; of two numbers the lower one runs."""
        payload = bytes([job.lane for job in jobs]) + b" " + b" ".join([job.entry for job in jobs])
        length = min(len(payload), PLACE_BYTES - HEAD_BYTES)
        head, at = self._heads[number % PLACES], self._payloads[number % PLACES]
        head[0] = 0
        head[1] = number & 0xFFFFFFFF
        self._page[at : at + length] = payload[:length]
        head[0] = length

    def clear(self, number: int | None = None) -> None:
        """The engine has answered that batch, or whatever it had."""
        for head in self._heads if number is None else (self._heads[number % PLACES],):
            head[0] = 0

    def read(self) -> tuple[str, set[tuple[int, bytes]]]:
        """The life that wrote the page, and (lane, entry) of the jobs that were in its engine; those sent ahead were not."""
        life = bytes(self._page[:LIFE_BYTES]).rstrip(b"\0").decode(errors="replace")
        held = [(head[1], head[0], at) for head, at in zip(self._heads, self._payloads, strict=True) if head[0]]
        if not held:
            return life, set()
        _, length, at = min(held)
        return life, set(_jobs(bytes(self._page[at : at + min(length, PLACE_BYTES - HEAD_BYTES)])))

    def close(self) -> None:
        """Lets the mapping go; what is on the page stays."""
        for head in self._heads:
            head.release()
        self._view.release()
        self._page.close()


def _jobs(payload: bytes) -> Iterable[tuple[int, bytes]]:
    # The lanes are 0, 1 and 2, the space is 32: the first space ends them.
    lanes, _, entries = payload.partition(b" ")
    return zip(lanes, entries.split(), strict=False)
