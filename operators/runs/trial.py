"""A hundred rows before a run of millions: whether they convert, what the model says to them, and how long the whole would take.

Scores on the low lane, as a run does. Writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from broker import roster
from broker.connection import Link
from broker.errors import JobFailed, PayloadTooLarge, ResultTimeout, RunError
from broker.spec import ModelSpec
from operators.runs.data.scored import Page
from operators.runs.ordering import Bound
from producer import Producer

ROWS = 100
SHOWN = 5
TIMEOUT_S = 60.0
TOGETHER = 8  # full batches that the speed is taken from


class Trial(msgspec.Struct, frozen=True):
    """What was found. `rows_total` None: only reading tells, `rows_guess` is near. `eta_s` None: no row was scored."""

    kind: str
    fingerprint: str
    rows_total: int | None
    rows_guess: int
    inputs: dict[str, list[str]]
    columns: list[str]
    tried: int
    failed: dict[int, str]
    sample: list[dict[str, Any]]
    slots: int
    rows_per_s: float
    eta_s: float | None


def try_out(link: Link, producer: Producer, bound: Bound, *, rows: int = ROWS) -> Trial:
    """Raises RunError when nothing serves the model or nothing answers in time; a row that fails is only told."""
    spec, source, binding, _ = bound
    slots = len(roster.ready(link, spec.name))
    if not slots:
        raise RunError(
            f"the mapping is right, but no slot of {spec.name} is ready to score with; see `penstock status`, then check again"
        )
    chunk = next(source.chunks(rows, columns=binding.columns))
    read = binding.read(chunk)
    page = bound.layout.page(read)
    speeds = []
    for group in read.groups:
        if isinstance(group.inputs, dict):
            _tensors(producer, spec.name, group.inputs, group.rows, page)
            good = ~np.isin(group.rows, list(page.failed))
            if good.any():
                speeds.append(_speed(producer, spec, {name: values[good] for name, values in group.inputs.items()}))
        else:
            began = time.monotonic()
            _values(producer, spec.name, group.inputs, group.rows, page)
            speeds.append(len(group.rows) / (time.monotonic() - began))
    speed = slots * min(speeds, default=0.0)
    total = source.rows if source.rows is not None else source.rows_guess
    return Trial(
        kind=source.kind, fingerprint=source.fingerprint, rows_total=source.rows, rows_guess=source.rows_guess,
        inputs={name: list(columns) for name, columns in binding.inputs.items()}, columns=bound.layout.schema.names,
        tried=chunk.rows, failed=page.failed, sample=_plain(page.table(spec.version).slice(0, SHOWN)), slots=slots,
        rows_per_s=speed, eta_s=total / speed if speed else None,
    )  # fmt: skip


def _tensors(producer: Producer, model: str, inputs: dict[str, Any], rows: Any, page: Page) -> None:
    """One job of all rows; one that fails or is too large is halved until the rows at fault stand alone."""
    try:
        result = producer.infer(model, inputs, TIMEOUT_S, lane="low", store=False)
    except ResultTimeout:
        raise _too_slow(model) from None
    except (JobFailed, PayloadTooLarge) as error:
        if len(rows) == 1:
            page.fail(int(rows[0]), str(error))
            return
        half = len(rows) // 2
        for part in (slice(None, half), slice(half, None)):
            _tensors(producer, model, {name: values[part] for name, values in inputs.items()}, rows[part], page)
        return
    if result.outputs:
        page.put(rows, result.outputs)
    else:
        page.put_values(rows, result.value)
    for place, text in result.row_errors.items():
        page.fail(int(rows[place]), text)


def _values(producer: Producer, model: str, values: Sequence[bytes] | Sequence[str], rows: Any, page: Page) -> None:
    """One job for each row, as a run does for models that take bytes or text."""
    handles = producer.submit_many(model, values, lane="low", store=False)
    for row, handle in zip(rows, handles, strict=True):
        try:
            result = handle.result(TIMEOUT_S)
        except ResultTimeout:
            raise _too_slow(model) from None
        except JobFailed as error:
            page.fail(int(row), str(error))
            continue
        if result.outputs:
            page.put(np.array([row]), {name: values[None] for name, values in result.outputs.items()})
        else:
            page.put_values(np.array([row]), [result.value])


def _speed(producer: Producer, spec: ModelSpec, inputs: dict[str, Any]) -> float:
    """Rows a second of a few full batches of these rows under way together, as a run has them."""
    count = len(next(iter(inputs.values())))
    places = np.arange(max(spec.max_rows, count)) % count
    full = {name: values[places] for name, values in inputs.items()}
    try:
        producer.infer(spec.name, full, TIMEOUT_S, lane="low", store=False)
    except PayloadTooLarge:
        full, places = inputs, places[:count]
    began = time.monotonic()
    handles = [producer.submit(spec.name, full, lane="low", store=False) for _ in range(TOGETHER)]
    for handle in handles:
        handle.result(TIMEOUT_S)
    return TOGETHER * len(places) / (time.monotonic() - began)


def _too_slow(model: str) -> RunError:
    return RunError(
        f"{ROWS} rows were not scored within {TIMEOUT_S:g} s: live traffic or other runs come first; see `penstock status` for "
        f"{model}, or submit the run, it waits its turn"
    )


def _plain(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as JSON may hold them."""
    return [{name: value if isinstance(value, int | float | str | list | None) else str(value) for name, value in row.items()}
            for row in table.to_pylist()]  # fmt: skip
