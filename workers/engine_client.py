"""The slot's view of its engine: spawn it, write batches into slabs, send, collect, kill. Two kinds, one shape.

`EngineProcess` is the real one. `InlineEngine` runs the model in the slot's own process, so that a debugger steps into it
and tests need no spawn.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import socket
from typing import Protocol

from broker.errors import ArtifactError, DecodeError
from workers import exchange
from workers.artifact import Artifact
from workers.columns import slab_bytes
from workers.exchange import FromEngine, LoadFailed, Measure, Measured, Ran, Ready, Run
from workers.progress import Progress
from workers.slabs import Slab

SLABS = 2  # one runs while the next is filled
KILL_WAIT_S = 5.0


class EngineDied(Exception):
    """Raised when the engine is gone; the text says how it went."""


class Engine(Protocol):
    """What the slot needs of an engine."""

    slabs: list[Slab]
    progress: Progress

    def start(self) -> None:
        """Begins loading; `poll_ready` tells when it is done."""

    def poll_ready(self) -> Ready | None:
        """The readiness message once it came. Raises ArtifactError when the model cannot be served, EngineDied."""

    def fileno(self) -> int:
        """For poll; -1 when answers are there at once."""

    def send(self, message: Run | Measure) -> None:
        """Hands a message over without waiting. Raises EngineDied."""

    def collect(self) -> Ran | Measured:
        """The next answer, waiting for it. Raises EngineDied."""

    def kill(self) -> bool:
        """Ends it at once; False when it survives SIGKILL (the driver holds it)."""

    def close(self) -> None:
        """Gives descriptors and slabs back, after `kill`."""

    @property
    def pid(self) -> int: ...


def make_slabs(artifact: Artifact, *, max_rows: int, raw_bytes: int, forwards: int = 1) -> list[Slab]:
    """The slabs of one slot, sized by the manifest for the largest batch, and a chain of so many."""
    input_bytes, output_bytes = slab_bytes(artifact.spec, max_rows * forwards, raw_bytes=raw_bytes)
    return [Slab(input_bytes=input_bytes, output_bytes=output_bytes) for _ in range(SLABS)]


class EngineProcess:
    """A spawned engine. Start it from the main thread: the parent-death signal follows the thread."""

    def __init__(
        self, artifact: Artifact, *, slabs: list[Slab], device: str, threads: int, row_buckets: tuple[int, ...],
        memory_fraction: float = 0.0,
    ) -> None:  # fmt: skip
        self.slabs = slabs
        self.progress = Progress()
        self._survives = False
        self._artifact = artifact
        self._device = device
        self._threads = threads
        self._memory_fraction = memory_fraction
        self._row_buckets = row_buckets
        self._end: socket.socket | None = None
        self._process: multiprocessing.process.BaseProcess | None = None

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = exchange.pair()
        sizes = (self.slabs[0].input_bytes, self.slabs[0].output_bytes)
        self._process = context.Process(
            target=_enter,
            args=(
                str(self._artifact.folder), self._artifact.digest, self._device, self._threads,
                self._memory_fraction, self._row_buckets, sizes, [_Passed(slab.fd) for slab in self.slabs],
                _Passed(self.progress.fd), _Passed(theirs.fileno()), os.getpid(),
            ),
            name="penstock-engine",
            daemon=True,
        )  # fmt: skip
        self._process.start()
        theirs.close()
        self._end = ours

    def poll_ready(self) -> Ready | None:
        assert self._end is not None
        poller = select.poll()
        poller.register(self._end, select.POLLIN)
        if not poller.poll(0):
            return None
        message = self._read()
        if isinstance(message, LoadFailed):
            raise ArtifactError(message.text)
        assert isinstance(message, Ready)
        return message

    def fileno(self) -> int:
        return self._end.fileno() if self._end is not None else -1

    def send(self, message: Run | Measure) -> None:
        assert self._end is not None
        try:
            self._end.send(exchange.encode(message))
        except OSError:
            raise EngineDied(self._epitaph()) from None

    def collect(self) -> Ran | Measured:
        message = self._read()
        assert isinstance(message, Ran | Measured)
        return message

    def kill(self) -> bool:
        if self._process is None or self._process.pid is None:
            return True
        self._process.kill()
        self._process.join(0.0 if self._survives else KILL_WAIT_S)
        self._survives = self._process.exitcode is None
        return not self._survives

    def close(self) -> None:
        if self._end is not None:
            self._end.close()
            self._end = None
        if self._process is not None and self._process.exitcode is not None:
            self._process.close()
            self._process = None
        self.progress.close()
        for slab in self.slabs:
            slab.close()

    @property
    def pid(self) -> int:
        return (self._process.pid or 0) if self._process is not None else 0

    def _read(self) -> FromEngine:
        assert self._end is not None
        try:
            message = exchange.read_for_slot(self._end)
        except DecodeError as error:  # code of the artifact's own runs beside it: no word of such an engine counts
            self.kill()
            raise EngineDied(str(error)) from None
        if message is None:
            raise EngineDied(self._epitaph())
        return message

    def _epitaph(self) -> str:
        assert self._process is not None
        self._process.join(1.0)
        code = self._process.exitcode
        if code is None:
            return "the engine closed its socket but lives"
        return f"the engine died of signal {-code}" if code < 0 else f"the engine exited with code {code}"


class _Passed:
    """A descriptor handed to the child: pickled as a duplicate that spawn passes on."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        from multiprocessing import reduction

        return _detach, (reduction.DupFd(self.fd),)


def _detach(duplicate: object) -> int:
    return duplicate.detach()  # type: ignore[attr-defined, no-any-return]  # multiprocessing's DupFd is untyped


def _enter(*args: object) -> None:
    from workers import engine

    engine.main(*args)  # type: ignore[arg-type]  # Process passes what start() built


class InlineEngine:
    """The engine in the slot's process, for debugging and tests: answers are there as soon as a message is sent."""

    def __init__(
        self, artifact: Artifact, *, slabs: list[Slab], device: str, threads: int, row_buckets: tuple[int, ...],
        memory_fraction: float = 0.0,
    ) -> None:  # fmt: skip
        self.slabs = slabs
        self.progress = Progress()
        self._artifact = artifact
        self._device = device
        self._threads = threads
        self._memory_fraction = memory_fraction
        self._row_buckets = row_buckets
        self._answers: list[Ran | Measured] = []

    def start(self) -> None:
        from workers import engine

        self._engine = engine
        self._forward, self._ready = engine.load_and_warm(
            str(self._artifact.folder), device=self._device, threads=self._threads, slabs=self.slabs,
            row_buckets=self._row_buckets, stamp=self.progress.stamp, digest=self._artifact.digest,
            memory_fraction=self._memory_fraction,
        )  # fmt: skip

    def poll_ready(self) -> Ready | None:
        return self._ready

    def fileno(self) -> int:
        return -1

    def send(self, message: Run | Measure) -> None:
        if isinstance(message, Run):
            self._answers.append(self._forward.run(message))
        else:
            self._answers.append(self._engine.measure(self._forward))

    def collect(self) -> Ran | Measured:
        return self._answers.pop(0)

    def kill(self) -> bool:
        return True

    def close(self) -> None:
        self.progress.close()
        for slab in self.slabs:
            slab.close()

    @property
    def pid(self) -> int:
        return os.getpid()
