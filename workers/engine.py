"""The engine: a spawned process that owns the device context and the model. It takes Runs from its slot and answers them.

It knows nothing of Redis, leases or jobs. It ends when its slot does: by the parent-death signal, and by the end of the
socket. It never decides to retire; it only measures.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

from broker.errors import ArtifactError, PenstockError
from workers import console, device_loop, exchange, memory
from workers.artifact import open_artifact, parse
from workers.backends import load
from workers.exchange import LoadFailed, Measure, Measured, Ran, Ready, Run
from workers.exits import Exit
from workers.failures import POLICIES, Kind
from workers.forward import Forward
from workers.golden import probe_inputs, probe_mismatch
from workers.pipeline import load_pipeline
from workers.progress import Progress
from workers.slabs import Slab
from workers.warm import warm as warm

PR_SET_PDEATHSIG = 1
UNUSABLE = {POLICIES[kind].reason for kind in (Kind.DEVICE_FAULT, Kind.DEVICE_BROKEN)}  # what no context survives


def _unstamped() -> None:
    """For an engine nobody watches."""


def load_forward(
    folder: str,
    *,
    device: str,
    threads: int,
    slabs: list[Slab],
    stamp: Callable[[], None] = _unstamped,
    digest: str = "",
    memory_fraction: float = 0.0,
) -> Forward:
    """Verifies, loads and probes the artifact: with `digest` that manifest's only, which the slot has found to be trusted.

    Raises ArtifactError, DeviceError or the runtime's own error."""
    artifact = open_artifact(folder, digest=digest)
    stamp()
    backend = load(artifact, device=device, threads=threads, memory_fraction=memory_fraction)
    stamp()
    if artifact.manifest.golden is not None:
        problem = probe_mismatch(artifact.manifest, backend.run(probe_inputs(artifact.manifest)))
        if problem:
            raise ArtifactError(f"{artifact.folder}: {problem}; the model answers otherwise than when it was built")
    return Forward(artifact.spec, backend, slabs, load_pipeline(artifact), stamp=stamp)


def load_and_warm(
    folder: str,
    *,
    device: str,
    threads: int,
    slabs: list[Slab],
    row_buckets: tuple[int, ...],
    stamp: Callable[[], None] = _unstamped,
    digest: str = "",
    memory_fraction: float = 0.0,
) -> tuple[Forward, Ready]:
    """Everything up to ready. Raises ArtifactError or DeviceError of one line, whatever the loader raised."""
    began = time.monotonic()
    try:
        forward = load_forward(
            folder,
            device=device,
            threads=threads,
            slabs=slabs,
            stamp=stamp,
            digest=digest,
            memory_fraction=memory_fraction,
        )
        times, too_large = warm(forward, parse(folder).spec, row_buckets)
        usage = measure(forward)
    except PenstockError:
        raise
    except Exception as error:  # the process edge: what a loader or a first forward raises is the reason in status
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ArtifactError(f"{folder}: the model does not run: {text[:900]}") from error
    load_s = time.monotonic() - began
    return forward, Ready(os.getpid(), forward.backend.device, load_s, usage, times, too_large)


def measure(forward: Forward) -> Measured:
    """Memory now; collects garbage first, so call it at an idle point only."""
    return Measured(memory.host_bytes(), forward.backend.device_bytes())


def main(
    folder: str,
    digest: str,
    device: str,
    threads: int,
    memory_fraction: float,
    row_buckets: tuple[int, ...],
    slab_sizes: tuple[int, int],
    slab_fds: list[int],
    progress_fd: int,
    socket_fd: int,
    parent: int,
) -> None:
    """The process. Exits by os._exit: destructors of a dying device context may hang."""
    _die_with(parent)
    console.outlast()
    memory.keep_freed()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group; the slot decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = socket.socket(fileno=socket_fd)
    try:
        serve(
            end,
            folder,
            digest,
            device,
            threads,
            memory_fraction,
            row_buckets,
            slab_sizes,
            slab_fds,
            Progress(progress_fd),
        )
    finally:
        sys.stderr.flush()
        os._exit(0)


def serve(
    end: socket.socket,
    folder: str,
    digest: str,
    device: str,
    threads: int,
    memory_fraction: float,
    row_buckets: tuple[int, ...],
    slab_sizes: tuple[int, int],
    slab_fds: list[int],
    progress: Progress,
) -> None:
    """Loads, warms, says Ready, then answers until the slot closes its end."""
    slabs = [Slab(input_bytes=slab_sizes[0], output_bytes=slab_sizes[1], fd=fd) for fd in slab_fds]
    try:
        forward, ready = load_and_warm(
            folder,
            device=device,
            threads=threads,
            slabs=slabs,
            row_buckets=row_buckets,
            stamp=progress.stamp,
            digest=digest,
            memory_fraction=memory_fraction,
        )
    except PenstockError as error:
        end.send(exchange.encode(LoadFailed(str(error)[:1000])))
        return
    gc.freeze()  # what the imports made lives to the end: a full collection would walk it all, between two batches
    end.send(exchange.encode(ready))

    def answer(said: Ran | Measure) -> None:
        end.send(exchange.encode(measure(forward) if isinstance(said, Measure) else said))
        if isinstance(said, Ran) and said.reason in UNUSABLE:
            sys.stderr.flush()
            os._exit(Exit.DEVICE_FAULT)  # nothing that runs in this context can be trusted, destructors included

    if forward.overlapping is not None:
        device_loop.serve(end, board=forward.board, answer=answer, progress=progress)
    else:
        while (message := exchange.read_for_engine(end)) is not None:
            if isinstance(message, Run):
                progress.turn_to(message.seq)
                answer(forward.run(message))
            else:
                progress.stamp()
                answer(message)
    if forward.on_device is not None:
        forward.on_device.detach()


def _die_with(parent: int) -> None:
    """An orphan holding device memory is a defect: die when the slot's main thread does, however it dies."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
