"""Which rows of a tensor break the bounds its manifest gives. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from broker.spec import TensorSpec


def broken_rows(tensor: TensorSpec, array: np.ndarray[Any, Any]) -> list[tuple[int, str]]:
    """Rows of `array` [rows, ...] that break the tensor's bounds, each with what is wrong."""
    flat = array.reshape(array.shape[0], -1)
    found: dict[int, str] = {}
    if tensor.finite and flat.dtype.kind == "f":
        for row in np.flatnonzero(~np.isfinite(flat).all(axis=1)):
            found[int(row)] = f"{tensor.name} holds NaN or infinity"
    for bound, is_broken in ((tensor.minimum, np.less), (tensor.maximum, np.greater)):
        if bound is not None:
            for row in np.flatnonzero(is_broken(flat, bound).any(axis=1)):
                found.setdefault(int(row), f"{tensor.name} lies outside {tensor.minimum}..{tensor.maximum}")
    return sorted(found.items())
