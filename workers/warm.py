"""The warm-up: every bucket runs before the slot says ready, so that no job pays for first calls; it seeds the table T.

Lives in the engine. On a GPU shapes are readied for replay here, before the memory baseline is taken.
"""

from __future__ import annotations

import time
from itertools import product
from statistics import median

import numpy as np

from broker.errors import DeviceError
from broker.spec import ModelSpec
from workers.backends import Arrays, OnDevice
from workers.columns import input_columns
from workers.exchange import Timed, TooLarge
from workers.failures import Kind, classify
from workers.forward import Forward
from workers.slabs import layout

WARM_RUNS = 3
WARM_BUDGET_S = 120.0


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
    if forward.on_device is not None:
        times = [_replayed(forward, forward.on_device, spec, one, deadline) for one in times]
    return times, too_large


def _replayed(forward: Forward, backend: OnDevice, spec: ModelSpec, one: Timed, deadline: float) -> Timed:
    """The same bucket once more where it can be replayed from now on. After all ran: what is captured keeps its memory."""
    inputs = _zeros(spec, one.dims, one.rows)
    if not backend.prepare(inputs):
        return one
    ms = _timed(forward, inputs, deadline)
    return one if ms is None else Timed(one.rows, one.dims, ms)


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
