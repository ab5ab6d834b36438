"""A first look at a run: how many bytes a row has and how fast the model is, which its plan follows from."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from broker.errors import PenstockError, ResultTimeout
from broker.spec import Published
from operators.runs.data.binding import Binding, Group
from operators.runs.data.source import Source
from operators.runs.pace import Plan, plan
from operators.runs.pieces import LANE
from producer.client import Producer

LOOK_ROWS = 256
WAIT_S = 10.0  # behind live traffic the pool may have other things to do: then it counts as slow
FAST_ROWS_PER_S, SLOW_ROWS_PER_S = 1e5, 10.0
TICK_S = 0.5


def look(source: Source, binding: Binding, most_rows: int) -> Group | None:
    """The first rows that can be submitted, as many as one batch takes; None when none of the first ones can."""
    for chunk in source.chunks(min(most_rows, LOOK_ROWS), columns=binding.columns):
        groups = binding.read(chunk).groups
        return groups[0] if groups else None
    return None


def row_bytes(group: Group) -> int:
    """Of one row, on average."""
    if isinstance(group.inputs, list):
        return max(1, sum(map(len, group.inputs)) // len(group.inputs))
    return max(1, sum(array.nbytes for array in group.inputs.values()) // len(group.rows))


def measure(
    producer: Producer, model: str, group: Group, tick: Callable[[], Any], clock: Callable[[], float] = time.monotonic
) -> float:
    """Rows a second of one batch through the pool, waiting included. A guess where it fails or takes too long."""
    inputs: list[Any]
    if isinstance(group.inputs, list):
        inputs = list(group.inputs)
    else:
        inputs = [next(iter(group.inputs.values())) if len(group.inputs) == 1 else group.inputs]
    began = clock()
    try:
        for handle in producer.submit_many(model, inputs, lane=LANE, store=False):
            while True:
                try:
                    handle.result(TICK_S)
                    break
                except ResultTimeout:
                    tick()
                    if clock() - began > WAIT_S:
                        return max(SLOW_ROWS_PER_S, len(group.rows) / WAIT_S)
    except PenstockError:
        return SLOW_ROWS_PER_S * LOOK_ROWS  # its rows are tried one by one then: what fails is told there
    return len(group.rows) / max(1e-6, clock() - began)


def make_plan(
    source: Source, published: Published, producer: Producer, *, job_rows: int, rate: float, group: Group | None,
    tick: Callable[[], Any],
) -> Plan:  # fmt: skip
    """The plan of a run that begins with these rows, and is to do no more than `rate` a second (0: as many as go)."""
    total = source.rows if source.rows is not None else source.rows_guess
    spec = published.spec
    speed = FAST_ROWS_PER_S if group is None else measure(producer, spec.name, group, tick)
    size = 1 if group is None else row_bytes(group)
    return plan(spec, published.limits, size, min(speed, rate or speed), rows_total=total, job_rows=job_rows)
