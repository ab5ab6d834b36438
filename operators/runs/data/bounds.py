"""Rows whose values the model's manifest refuses. Pure; the same bounds that a submit holds a whole job to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from broker.spec import TensorSpec
from operators.runs.data.rows import Rows


def breaks(rows: Rows, tensor: TensorSpec) -> dict[int, str]:
    """Row -> which bound it breaks. One bad row would have the job of all its neighbours refused."""
    if not tensor.is_bounded or tensor.on_violation != "refuse" or not rows.values.size:
        return {}
    values, what = rows.values, f"input {tensor.name!r}"
    faults = dict[int, str]()
    with np.errstate(invalid="ignore"):
        if tensor.finite and values.dtype.kind == "f":
            _blame(
                faults, rows, np.isfinite(values), f"{what} holds NaN or infinity, which the model's manifest forbids"
            )
        if tensor.minimum is not None:
            _blame(faults, rows, values >= tensor.minimum, f"{what} is under its minimum {tensor.minimum:g}")
        if tensor.maximum is not None:
            _blame(faults, rows, values <= tensor.maximum, f"{what} is over its maximum {tensor.maximum:g}")
    return faults


def _blame(faults: dict[int, str], rows: Rows, is_fine: NDArray[np.bool_], text: str) -> None:
    if is_fine.all():
        return
    bad = np.flatnonzero(~is_fine.reshape(len(is_fine), -1).all(axis=1))
    if rows.starts is not None and rows.widths is not None:  # elements of rows that vary: whose are they
        bad = np.unique(np.searchsorted(rows.starts + rows.widths, bad, side="right"))
    for row in bad.tolist():
        faults.setdefault(row, text)
