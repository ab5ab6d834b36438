"""Arrivals that wait for nobody: a seeded Poisson schedule, and a client that keeps to it.

Every latency counts from the moment the job was due, not from when the client came to send it: a pool that stalls is charged
for all who would have come meanwhile (no coordinated omission). How late the client was is measured beside it.
"""

from __future__ import annotations

import asyncio
import gc
import selectors
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.latency import Latency, latency_of
from producer import AsyncProducer

RESULT_WITHIN_S = 60.0
HEAD_START_S = 0.05


class Open(msgspec.Struct, frozen=True):
    """An open loop: what was asked for, what came of it, and how late the client itself was."""

    jobs_per_s: float
    latency: Latency
    late: Latency


def schedule(jobs_per_s: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Seconds at which jobs are due, ascending, below `seconds`: gaps are exponential with mean 1 / jobs_per_s."""
    random = np.random.default_rng(seed)
    count = int(jobs_per_s * seconds + 10 * (jobs_per_s * seconds) ** 0.5 + 10)
    due = np.cumsum(random.exponential(1 / jobs_per_s, count))
    return due[due < seconds]


def run(
    url: str, model: str, x: NDArray[np.float32], due_s: Sequence[float], jobs_per_s: float, *, lane: str = "normal"
) -> Open:
    """Submits a row of `x` at each due time from one asyncio client. Raises an ExceptionGroup of what the pool raised."""
    with asyncio.Runner(loop_factory=_precise_loop) as runner:
        took_s, late_s = runner.run(_run(url, model, x, due_s, lane))
    return Open(jobs_per_s, latency_of([one * 1e3 for one in took_s]), latency_of([one * 1e3 for one in late_s]))


async def _run(
    url: str, model: str, x: NDArray[np.float32], due_s: Sequence[float], lane: str
) -> tuple[list[float], list[float]]:
    clock = asyncio.get_running_loop().time
    took_s, late_s = [0.0] * len(due_s), [0.0] * len(due_s)

    async with AsyncProducer(url) as producer:

        async def one(number: int, due: float) -> None:
            late_s[number] = clock() - due
            await producer.infer(model, x[number % len(x)], RESULT_WITHIN_S, lane=lane)
            took_s[number] = clock() - due

        await producer.infer(model, x[0], RESULT_WITHIN_S, lane=lane)  # connects and learns the model's spec
        gc.collect()
        gc.freeze()  # a full collection would walk what the benchmark has imported, and hold every job up for its 70 ms
        began = clock() + HEAD_START_S
        async with asyncio.TaskGroup() as tasks:  # keeps those that are under way, not all there ever were
            for number, at in enumerate(due_s):
                await asyncio.sleep(max(0.0, began + at - clock()))
                tasks.create_task(one(number, began + at))
        gc.unfreeze()
    return took_s, late_s


def _precise_loop() -> asyncio.AbstractEventLoop:
    """epoll's timeouts are rounded up to a millisecond, select's to a microsecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())
