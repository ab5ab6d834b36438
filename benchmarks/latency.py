"""How long jobs take: one in flight, again and again, by one client on one connection; and 64 in flight from one asyncio client.

One in flight of the bare loop ends with the result as raw bytes, ours (`infer`) with arrays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from statistics import fmean, quantiles
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks import bare
from broker.messages import Timings
from producer import AsyncProducer, Producer

WARM_UP = 100
TIMEOUT_S = 10.0
STAMPED_EARLY_MS = 0.5


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds. p99.9 of fewer than a thousand values is their maximum, or near it."""

    p50_ms: float
    p99_ms: float
    p999_ms: float
    jobs: int


class Split(msgspec.Struct, frozen=True):
    """Where a job's time goes, means in ms that add up to the mean latency, from the timings its outcome carries.

    `queue`: in Redis until claimed. `slot`: from the claim to the end of its batch but for the forward: batching, the copy into the
    slab, the way to the engine and back; an outcome does not tell these apart. `trip`: what the client saw beyond that: its
    own work, both ways to Redis, encoding and settling.
    """

    queue_ms: float
    slot_ms: float
    forward_ms: float
    trip_ms: float


class Timed(msgspec.Struct, frozen=True):
    """Jobs of one client: their speed, their latency, where the time went."""

    jobs_per_s: float
    latency: Latency
    split: Split


def latency_of(took_ms: Sequence[float]) -> Latency:
    """The centiles."""
    centiles = quantiles(took_ms, n=1000, method="inclusive")
    return Latency(centiles[499], centiles[989], centiles[998], len(took_ms))


def split_of(took_ms: Sequence[float], timings: Sequence[Timings]) -> Split:
    """The parts of the mean job. A submit is stamped in whole milliseconds of Redis, half of one early on average."""
    queue, forward = (fmean(getattr(one, name) for one in timings) for name in ("queue_ms", "forward_ms"))
    total = fmean(one.total_ms for one in timings)
    return Split(
        queue_ms=queue - STAMPED_EARLY_MS,
        slot_ms=total - queue - forward,
        forward_ms=forward,
        trip_ms=fmean(took_ms) - total + STAMPED_EARLY_MS,
    )


def through_penstock(producer: Producer, model: str, x: NDArray[np.float32]) -> Timed:
    """Ours, one in flight."""
    for row in x[:WARM_UP]:
        producer.infer(model, row, TIMEOUT_S)
    took_ms, timings = [], []
    began = time.perf_counter()
    for row in x:
        started = time.perf_counter()
        result = producer.infer(model, row, TIMEOUT_S)
        took_ms.append((time.perf_counter() - started) * 1e3)
        timings.append(result.timings)
    return Timed(len(x) / (time.perf_counter() - began), latency_of(took_ms), split_of(took_ms, timings))


def many_through_penstock(url: str, model: str, x: NDArray[np.float32], width: int) -> Timed:
    """Ours, `width` in flight: as many tasks of one AsyncProducer, each submitting its next when its last has come back."""
    return asyncio.run(_many(url, model, x, width))


async def _many(url: str, model: str, x: NDArray[np.float32], width: int) -> Timed:
    queue = iter(x)
    took_ms: list[float] = []
    timings: list[Timings] = []

    async with AsyncProducer(url) as producer:

        async def client() -> None:
            for row in queue:
                started = time.perf_counter()
                result = await producer.infer(model, row, TIMEOUT_S)
                took_ms.append((time.perf_counter() - started) * 1e3)
                timings.append(result.timings)

        await producer.infer(model, x[0], TIMEOUT_S)  # connects and learns the model's spec
        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(width)))
        took_s = time.perf_counter() - began
    return Timed(len(x) / took_s, latency_of(took_ms), split_of(took_ms, timings))


def through_the_bare_loop(producer: bare.Producer, x: NDArray[np.float32]) -> Latency:
    """The loop's, one in flight."""
    found = _measure(producer.one, x)
    producer.forget()
    return found


def _measure(one: Callable[[NDArray[np.float32]], Any], x: NDArray[np.float32]) -> Latency:
    for row in x[:WARM_UP]:
        one(row)
    took_ms = []
    for row in x:
        started = time.perf_counter()
        one(row)
        took_ms.append((time.perf_counter() - started) * 1e3)
    return latency_of(took_ms)
