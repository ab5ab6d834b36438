"""The engine: a spawned process that owns the device context and the model. It takes Runs from its slot and answers them.

It knows nothing of Redis, leases or jobs. It ends when its slot does: by the parent-death signal, and by the end of the
socket. It never decides to retire; it only measures.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from itertools import product
from statistics import median

import numpy as np

from broker.errors import ArtifactError, DeviceError, PenstockError
from broker.spec import ModelSpec
from workers import console, exchange, memory
from workers.artifact import open_artifact, parse
from workers.backends import Arrays, load
from workers.columns import input_columns
from workers.exchange import LoadFailed, Measure, Measured, Ran, Ready, Run, Timed, TooLarge
from workers.exits import Exit
from workers.failures import POLICIES, Kind, classify
from workers.forward import Forward
from workers.golden import probe_inputs, probe_mismatch
from workers.pipeline import load_pipeline
from workers.progress import Progress
from workers.slabs import Slab, layout

PR_SET_PDEATHSIG = 1
UNUSABLE = {POLICIES[kind].reason for kind in (Kind.DEVICE_FAULT, Kind.DEVICE_BROKEN)}  # what no context survives
WARM_RUNS = 3
WARM_BUDGET_S = 120.0


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
) -> Forward:
    """Verifies, loads and probes the artifact: with `digest` that manifest's only, which the slot has found to be trusted.

    Raises ArtifactError, DeviceError or the runtime's own error."""
    artifact = open_artifact(folder, digest=digest)
    stamp()
    backend = load(artifact, device=device, threads=threads)
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
) -> tuple[Forward, Ready]:
    """Everything up to ready. Raises ArtifactError or DeviceError of one line, whatever the loader raised."""
    began = time.monotonic()
    try:
        forward = load_forward(folder, device=device, threads=threads, slabs=slabs, stamp=stamp, digest=digest)
        times, too_large = warm(forward, parse(folder).spec, row_buckets)
        usage = measure(forward)
    except PenstockError:
        raise
    except Exception as error:  # the process edge: what a loader or a first forward raises is the reason in status
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ArtifactError(f"{folder}: the model does not run: {text[:900]}") from error
    load_s = time.monotonic() - began
    return forward, Ready(os.getpid(), forward.backend.device, load_s, usage, times, too_large)


def warm(forward: Forward, spec: ModelSpec, row_buckets: tuple[int, ...]) -> tuple[list[Timed], list[TooLarge]]:
    """Runs every bucket before the slot says ready, so that no job pays for first calls; the medians in ms.

    A batch the device has no room for is left out, with those above it. Raises DeviceError when it is the smallest.
    """
    varying = sorted({dim for tensor in spec.inputs for dim in tensor.shape if isinstance(dim, str)})
    times, too_large = [], []
    deadline = time.monotonic() + WARM_BUDGET_S
    for dims in product(*(spec.buckets[name] for name in varying)):
        for rows in row_buckets:
            ms = _timed(forward, _zeros(spec, dims, rows), deadline)
            if ms is None:
                too_large.append(TooLarge(rows, dims))
                break
            times.append(Timed(rows, dims, ms))
    for one in too_large:
        if one.rows == row_buckets[0]:
            sizes = f" of {' x '.join(map(str, one.dims))}" if one.dims else ""
            raise DeviceError(
                f"{forward.backend.device} has no room for the smallest batch, {one.rows} rows{sizes}; "
                "free memory on it (`nvidia-smi` shows who holds it), or serve a smaller model or smaller buckets"
            )
    return times, too_large


def _timed(forward: Forward, inputs: Arrays, deadline: float) -> float | None:
    """The median of a few forwards in ms; None when the device has no room for them."""
    taken = []
    try:
        for _ in range(WARM_RUNS):
            began = time.perf_counter()
            forward.backend.run(inputs)
            forward.stamp()
            taken.append((time.perf_counter() - began) * 1e3)
            if time.monotonic() > deadline:
                break
    except Exception as error:
        if classify(error).kind is not Kind.OUT_OF_MEMORY:
            raise
    else:
        return median(taken)
    forward.backend.free()  # past the except block: the traceback kept the tensors
    return None


def _zeros(spec: ModelSpec, dims: tuple[int, ...], rows: int) -> Arrays:
    places, _ = layout(input_columns(spec, dims), rows)
    return {place.name: np.zeros(place.shape, dtype=place.dtype) for place in places}


def measure(forward: Forward) -> Measured:
    """Memory now; collects garbage first, so call it at an idle point only."""
    return Measured(memory.host_bytes(), forward.backend.device_bytes())


def main(
    folder: str,
    digest: str,
    device: str,
    threads: int,
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group; the slot decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = socket.socket(fileno=socket_fd)
    try:
        serve(end, folder, digest, device, threads, row_buckets, slab_sizes, slab_fds, Progress(progress_fd))
    finally:
        sys.stderr.flush()
        os._exit(0)


def serve(
    end: socket.socket,
    folder: str,
    digest: str,
    device: str,
    threads: int,
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
        )
    except PenstockError as error:
        end.send(exchange.encode(LoadFailed(str(error)[:1000])))
        return
    end.send(exchange.encode(ready))
    while (message := exchange.read_for_engine(end)) is not None:
        progress.stamp()
        answer: Ran | Measured
        match message:
            case Run():
                answer = forward.run(message)
            case Measure():
                answer = measure(forward)
        end.send(exchange.encode(answer))
        if isinstance(answer, Ran) and answer.reason in UNUSABLE:
            sys.stderr.flush()
            os._exit(Exit.DEVICE_FAULT)  # nothing that runs in this context can be trusted, destructors included


def _die_with(parent: int) -> None:
    """An orphan holding device memory is a defect: die when the slot's main thread does, however it dies."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
