"""Many jobs through a bounded window: never more than so many queued or unread, however long the iterable. Used by `map`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from broker.errors import InvalidInput, JobFailed, QueueFull
from broker.intake import CHUNK_JOBS
from producer.options import Options, is_whole
from producer.tickets import Sink, Ticket

if TYPE_CHECKING:
    from producer.client import Producer


class Window:
    """What is out and what is next: decides, and does neither I/O nor sleep."""

    def __init__(self, inputs: Iterable[Any], *, size: int, is_ordered: bool) -> None:
        if not is_whole(size) or size < 1:
            raise InvalidInput(f"window={size!r} must be a whole number, at least 1")
        self.sink = None if is_ordered else Sink()
        self.rest: list[Any] = []  # taken from the inputs, not queued yet
        self._inputs = iter(inputs)
        self._size = size
        self._refill = max(1, min(CHUNK_JOBS, size // 4))
        self._is_over = False
        self._next_index = 0
        self._out: dict[Ticket, int] = {}  # in the order they were submitted
        self._not_before = 0.0

    def is_done(self) -> bool:
        return self._is_over and not self.rest and not self._out

    def to_submit(self, now: float) -> bool:
        """Fills `rest` with what should be submitted now; whether there is any."""
        room = self._size - len(self._out)
        if now < self._not_before or room < self._refill:
            return False
        want = min(CHUNK_JOBS, room) - len(self.rest)
        if want > 0 and not self._is_over:
            taken = list(itertools.islice(self._inputs, want))
            self._is_over = len(taken) < want
            self.rest += taken
        return bool(self.rest)

    def submitted(self, handles: list[Any], *, not_before: float = 0.0) -> None:
        for handle in handles:
            self._out[handle] = self._next_index
            self._next_index += 1
        del self.rest[: len(handles)]
        self._not_before = not_before

    def next_out(self) -> Ticket | None:
        """The job to wait for: the first one out."""
        return next(iter(self._out), None)

    def take(self) -> tuple[Any, int]:
        """(handle, index) of a finished job; the first one out when order matters."""
        ticket = self.sink.done.popleft() if self.sink is not None else next(iter(self._out))
        return ticket, self._out.pop(ticket)

    def pause_s(self, now: float) -> float:
        return max(0.0, self._not_before - now)


def with_index(error: JobFailed, index: int) -> JobFailed:
    """An error to be yielded in a result's place says which input it was."""
    error.index = index
    return error


def run_window(
    producer: Producer,
    model: str,
    inputs: Iterable[Any],
    options: Options,
    *,
    size: int,
    is_ordered: bool,
    timeout: float | None,
    return_errors: bool,
) -> Iterator[Any]:
    """See `Producer.map`."""
    window = Window(inputs, size=size, is_ordered=is_ordered)
    while not window.is_done():
        if window.to_submit(time.monotonic()):
            try:
                window.submitted(producer._submit_all(model, window.rest, options, 0.0, sink=window.sink))
            except QueueFull as full:
                window.submitted(full.accepted, not_before=time.monotonic() + full.retry_after_s)
            continue
        first = window.next_out()
        if first is None:
            time.sleep(window.pause_s(time.monotonic()))
            continue
        producer._await(first, timeout, window.sink)
        ticket, index = window.take()
        try:
            yield producer._read(ticket, index)
        except JobFailed as error:
            if not return_errors:
                raise
            yield with_index(error, index)
