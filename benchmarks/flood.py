"""A flood: one producer queues 40 000 jobs as fast as it can, and the clock stops when it has all their outcomes.

Both sides start with float32 rows and end with the outcomes in the producer's hands: the bare loop's as raw replies, ours as
settled states of every handle (no result decoded into arrays). Decoding all of them is timed apart, with no counterpart.
"""

from __future__ import annotations

import os
import time

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks import bare, machine
from benchmarks.stand import Stand
from producer import Producer

TIMEOUT_S = 60.0


class Flood(msgspec.Struct, frozen=True):
    """One flood. CPU in microseconds a job, by process; `commands` are Redis commands a job, those in scripts included.

    `redis_bytes` is what Redis read and wrote on its connections, a job.
    """

    jobs_per_s: float
    submit_s: float
    decode_s: float
    cpu_us: dict[str, float]
    commands: float
    redis_bytes: float


def rows(count: int, features: int, seed: int = 1) -> NDArray[np.float32]:
    """What the jobs carry."""
    return np.random.default_rng(seed).normal(size=(count, features)).astype(np.float32)


def through_penstock(stand: Stand, producer: Producer, x: NDArray[np.float32]) -> Flood:
    """Ours. Raises RuntimeError when an outcome is missing or not `done`."""
    pids = {
        "producer": os.getpid(), "slot": stand.slot_pid, "engine": stand.engine_pid,
        "redis": machine.server_pid(stand.link),
    }  # fmt: skip
    before, bytes_before = machine.commands(stand.link), machine.net_bytes(stand.link)
    meter = Meter(pids)
    started = time.perf_counter()
    handles = producer.submit_many(stand.model, x)
    submitted = time.perf_counter()
    handles[-1].result(TIMEOUT_S)
    # A handle that has its outcome answers from memory; one that has not asks Redis, which costs and shows.
    is_done = [handle.status() == "done" for handle in handles]
    received = time.perf_counter()
    cpu_us = meter.per_job(len(x))
    commands = (machine.commands(stand.link) - before) / len(x)
    redis_bytes = (machine.net_bytes(stand.link) - bytes_before) / len(x)
    if not all(is_done):
        raise RuntimeError(f"{is_done.count(False)} of {len(x)} jobs are not done")
    for handle in handles:
        handle.result(TIMEOUT_S)
    decoded = time.perf_counter()
    return Flood(len(x) / (received - started), submitted - started, decoded - received, cpu_us, commands, redis_bytes)


def through_the_bare_loop(producer: bare.Producer, worker_pid: int, x: NDArray[np.float32]) -> Flood:
    """The loop's."""
    link = producer.link
    before, bytes_before = machine.commands(link), machine.net_bytes(link)
    meter = Meter({"producer": os.getpid(), "worker": worker_pid, "redis": machine.server_pid(link)})
    started = time.perf_counter()
    producer.submit(x)
    submitted = time.perf_counter()
    producer.collect(len(x))
    received = time.perf_counter()
    cpu_us = meter.per_job(len(x))
    commands = (machine.commands(link) - before) / len(x)
    redis_bytes = (machine.net_bytes(link) - bytes_before) / len(x)
    producer.forget()
    return Flood(len(x) / (received - started), submitted - started, 0.0, cpu_us, commands, redis_bytes)


class Meter:
    """CPU time of some processes since now."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._before = self._read()

    def per_job(self, jobs: int) -> dict[str, float]:
        """name -> microseconds a job."""
        now = self._read()
        return {name: (now[name] - self._before[name]) / jobs * 1e6 for name in self._pids}

    def _read(self) -> dict[str, float]:
        return {name: machine.cpu_s(pid) for name, pid in self._pids.items()}
