"""The thread that reads a run's input ahead of what is submitted, and converts it. Bounded: one chunk waits, one is in its hand."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeAlias

from operators.runs.data.binding import Binding, Group
from operators.runs.data.scored import Layout
from operators.runs.data.slices import Chunk
from operators.runs.pieces import Scoring

AHEAD = 1
POLL_S = 0.05
Readied: TypeAlias = tuple[Scoring, tuple[Group, ...]]


class Ahead(threading.Thread):
    """Reads until the input ends, or `stop`. What reading raises is raised by `take`."""

    def __init__(self, chunks: Callable[[], Iterator[Readied]]) -> None:
        super().__init__(name="ahead", daemon=True)
        self._chunks = chunks
        self._ready: queue.Queue[Readied | BaseException | None] = queue.Queue(AHEAD)
        self._over = threading.Event()
        self.is_over = False

    def take(self) -> Readied | None:
        """The next chunk; None when it is not there yet, or `is_over`."""
        if self.is_over:
            return None
        try:
            one = self._ready.get_nowait()
        except queue.Empty:
            return None
        if one is None:
            self.is_over = True
        elif isinstance(one, BaseException):
            self.is_over = True
            raise one
        return one

    def stop(self) -> None:
        """Lets go of the input, as soon as the read under way ends; does not wait for that."""
        self._over.set()

    def run(self) -> None:
        try:
            for one in self._chunks():
                if not self._put(one):
                    return
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - the thread's edge: whoever takes the next chunk is told
            self._put(error)

    def _put(self, one: Readied | BaseException | None) -> bool:
        while not self._over.is_set():
            try:
                self._ready.put(one, timeout=POLL_S)
                return True
            except queue.Full:
                pass
        return False


def all_rows(chunks: Iterator[Chunk], binding: Binding, layout: Layout) -> Iterator[Readied]:
    """Chunks as the model takes them, each with an empty page."""
    for chunk in chunks:
        read = binding.read(chunk)
        page = layout.page(read)
        left = sum(len(group.rows) for group in read.groups)
        yield Scoring(chunk.index, chunk.first_row, chunk.rows, page, read.keys, left, None, page.table), read.groups
