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
from itertools import product
from statistics import median

import numpy as np

from broker.errors import ArtifactError, PenstockError
from broker.spec import ModelSpec
from workers import exchange, memory
from workers.artifact import load_pipeline, open_artifact
from workers.backends import Arrays, load
from workers.exchange import LoadFailed, Measure, Measured, Ran, Ready, Run, Timed
from workers.forward import Forward, input_columns
from workers.golden import probe_inputs, probe_mismatch
from workers.slabs import Slab, layout

PR_SET_PDEATHSIG = 1
WARM_RUNS = 3
WARM_BUDGET_S = 120.0


def load_forward(folder: str, *, device: str, threads: int, slabs: list[Slab]) -> Forward:
    """Verifies, loads and probes the artifact. Raises ArtifactError, DeviceError or the runtime's own error."""
    artifact = open_artifact(folder)
    backend = load(artifact, device=device, threads=threads)
    if artifact.manifest.golden is not None:
        problem = probe_mismatch(artifact.manifest, backend.run(probe_inputs(artifact.manifest)))
        if problem:
            raise ArtifactError(f"{artifact.folder}: {problem}; the model answers otherwise than when it was built")
    return Forward(artifact.spec, backend, slabs, load_pipeline(artifact))


def load_and_warm(
    folder: str, *, device: str, threads: int, slabs: list[Slab], row_buckets: tuple[int, ...]
) -> tuple[Forward, Ready]:
    """Everything up to ready. Raises ArtifactError or DeviceError of one line, whatever the loader raised."""
    began = time.monotonic()
    try:
        forward = load_forward(folder, device=device, threads=threads, slabs=slabs)
        times = warm(forward, open_artifact(folder).spec, row_buckets)
        usage = measure(forward)
    except PenstockError:
        raise
    except Exception as error:  # the process edge: what a loader or a first forward raises is the reason in status
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ArtifactError(f"{folder}: the model does not run: {text[:900]}") from error
    return forward, Ready(os.getpid(), forward.backend.device, time.monotonic() - began, usage, times)


def warm(forward: Forward, spec: ModelSpec, row_buckets: tuple[int, ...]) -> list[Timed]:
    """Runs every bucket before the slot says ready, so that no job pays for first calls; the medians in ms."""
    varying = sorted({dim for tensor in spec.inputs for dim in tensor.shape if isinstance(dim, str)})
    times = []
    deadline = time.monotonic() + WARM_BUDGET_S
    for dims in product(*(spec.buckets[name] for name in varying)):
        for rows in row_buckets:
            inputs = _zeros(spec, dims, rows)
            taken = []
            for _ in range(WARM_RUNS):
                began = time.perf_counter()
                forward.backend.run(inputs)
                taken.append((time.perf_counter() - began) * 1e3)
                if time.monotonic() > deadline:
                    break
            times.append(Timed(rows, dims, median(taken)))
    return times


def _zeros(spec: ModelSpec, dims: tuple[int, ...], rows: int) -> Arrays:
    places, _ = layout(input_columns(spec, dims), rows)
    return {place.name: np.zeros(place.shape, dtype=place.dtype) for place in places}


def measure(forward: Forward) -> Measured:
    """Memory now; collects garbage first, so call it at an idle point only."""
    return Measured(memory.host_bytes(), forward.backend.device_bytes())


def main(
    folder: str,
    device: str,
    threads: int,
    row_buckets: tuple[int, ...],
    slab_sizes: tuple[int, int],
    slab_fds: list[int],
    socket_fd: int,
    parent: int,
) -> None:
    """The process. Exits by os._exit: destructors of a dying device context may hang."""
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group; the slot decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = socket.socket(fileno=socket_fd)
    try:
        serve(end, folder, device, threads, row_buckets, slab_sizes, slab_fds)
    finally:
        sys.stderr.flush()
        os._exit(0)


def serve(
    end: socket.socket,
    folder: str,
    device: str,
    threads: int,
    row_buckets: tuple[int, ...],
    slab_sizes: tuple[int, int],
    slab_fds: list[int],
) -> None:
    """Loads, warms, says Ready, then answers until the slot closes its end."""
    slabs = [Slab(input_bytes=slab_sizes[0], output_bytes=slab_sizes[1], fd=fd) for fd in slab_fds]
    try:
        forward, ready = load_and_warm(folder, device=device, threads=threads, slabs=slabs, row_buckets=row_buckets)
    except PenstockError as error:
        end.send(exchange.encode(LoadFailed(str(error)[:1000])))
        return
    end.send(exchange.encode(ready))
    while (message := exchange.read_for_engine(end)) is not None:
        answer: Ran | Measured
        match message:
            case Run():
                answer = forward.run(message)
            case Measure():
                answer = measure(forward)
        end.send(exchange.encode(answer))


def _die_with(parent: int) -> None:
    """An orphan holding device memory is a defect: die when the slot's main thread does, however it dies."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
