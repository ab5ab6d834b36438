"""One job in flight: how long from submit to its result, again and again, by one client on one connection."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import quantiles
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks import bare
from producer import Producer

WARM_UP = 100
TIMEOUT_S = 10.0


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds."""

    p50_ms: float
    p99_ms: float


def through_penstock(producer: Producer, model: str, x: NDArray[np.float32]) -> Latency:
    """Ours: `infer`, which decodes the result into arrays."""
    return _measure(lambda row: producer.infer(model, row, TIMEOUT_S), x)


def through_the_bare_loop(producer: bare.Producer, x: NDArray[np.float32]) -> Latency:
    """The loop's: the result as raw bytes."""
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
    centiles = quantiles(took_ms, n=100)
    return Latency(centiles[49], centiles[98])
