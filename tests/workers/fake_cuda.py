"""torch.cuda and libcuda over CPU tensors, for the logic around the device. Work is put off until somebody waits for it, as on
a GPU: what reads too early, or writes too early, gets it wrong here too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from workers.backends import torch_cuda
from workers.backends.torch_cuda import CudaTorch


class Stream:
    """Work in order. `now` is the stream that work goes to."""

    now: Stream | None = None

    def __init__(self, _: Any = None) -> None:
        self.todo: list[Callable[[], None]] = []

    def put(self, work: Callable[[], None]) -> None:
        self.todo.append(work)

    def wait_event(self, event: Event) -> None:
        self.put(event.synchronize)

    def synchronize(self) -> None:
        while self.todo:
            self.todo.pop(0)()


class Event:
    """Recorded at a point of a stream."""

    def __init__(self, **_: Any) -> None:
        self.stream: Stream | None = None
        self.is_reached = False

    def record(self, stream: Stream) -> None:
        self.stream = stream
        stream.put(lambda: setattr(self, "is_reached", True))

    def query(self) -> bool:
        """The device goes on by a step whenever it is looked at."""
        assert self.stream is not None
        if not self.is_reached:
            self.stream.todo.pop(0)()
        return self.is_reached

    def synchronize(self) -> None:
        assert self.stream is not None
        while not self.is_reached:
            self.stream.todo.pop(0)()

    def elapsed_time(self, _: Event) -> float:
        return 7.0


class Graph:
    """Remembers what its capture ran by running it again: `forward` is looked up when it is replayed."""

    fails: str = ""

    def capture_begin(self, **_: Any) -> None:
        if Graph.fails:
            raise RuntimeError(Graph.fails)

    def capture_end(self) -> None: ...

    def replay(self) -> None: ...

    def reset(self) -> None: ...


class Driver:
    """libcuda: answers every call with 0, but for those in `refuses`; `calls` remembers names and pointers."""

    def __init__(self) -> None:
        self.refuses: dict[str, int] = {}
        self.calls: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*args: Any) -> int:
            where = args[0].value if args and isinstance(args[0], ctypes.c_void_p) else None
            self.calls.append((name, where or 0))
            return self.refuses.get(name, 0)

        return call

    def count(self, name: str) -> int:
        return sum(1 for one, _ in self.calls if one == name)


class FakeCuda(CudaTorch):
    """The real backend, whose copies and forwards go to the fake streams."""

    def _answer(self, tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        # on a GPU the inputs are read when the stream gets there: until now they may still be on their way
        stream = Stream.now
        if stream is not None:
            stream.synchronize()
        return super()._answer(tensors)


@contextmanager
def on_stream(stream: Stream) -> Iterator[None]:
    before, Stream.now = Stream.now, stream
    try:
        yield
    finally:
        Stream.now = before


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A machine with a GPU, to those who ask torch or the driver."""
    made = Driver()
    real_copy, real_empty, real_zeros, real_to = torch.Tensor.copy_, torch.empty, torch.zeros, torch.nn.Module.to

    def late(self: torch.Tensor, source: torch.Tensor) -> None:
        with torch.inference_mode():  # where the copy was asked for
            real_copy(self, source)

    def copy(self: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        if non_blocking and Stream.now is not None:
            Stream.now.put(lambda: late(self, source))
            return self
        if Stream.now is not None:
            Stream.now.synchronize()  # what was put there before comes first
        return real_copy(self, source)

    def on_host(make: Any) -> Any:
        def made_here(*sizes: Any, device: Any = None, pin_memory: bool = False, **options: Any) -> torch.Tensor:
            return make(*sizes, **options)

        return made_here

    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    monkeypatch.setattr(
        torch.nn.Module, "to", lambda self, where: self if isinstance(where, str) else real_to(self, where)
    )
    monkeypatch.setattr(torch, "empty", on_host(real_empty))
    monkeypatch.setattr(torch, "zeros", on_host(real_zeros))
    for name, value in {
        "Stream": Stream, "Event": Event, "stream": on_stream, "CUDAGraph": Graph, "synchronize": lambda *_: None,
        "graph_pool_handle": lambda: (0, 1), "empty_cache": lambda: None, "memory_reserved": lambda *_: 1 << 20,
        "device": lambda *_: on_stream(Stream()),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr("ctypes.CDLL", lambda name, **_: made)
    monkeypatch.setattr(torch_cuda, "CudaTorch", FakeCuda)
    monkeypatch.setattr("workers.devices.for_torch", lambda text, **_: text)
    Graph.fails = ""
    return made
