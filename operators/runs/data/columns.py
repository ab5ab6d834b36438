"""A column of answers being filled in any order, then given as one Arrow array. Knows neither models nor files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from math import prod
from typing import Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from broker.spec import TensorSpec

_NARROW = 32


class Column(Protocol):
    """Filled by one of the two puts, as the model answers."""

    def put(self, rows: NDArray[np.int64], outputs: Mapping[str, NDArray[Any]]) -> None: ...

    def put_values(self, rows: NDArray[np.int64], values: Sequence[Any]) -> None: ...

    def array(self, is_null: NDArray[np.bool_] | None) -> pa.Array:
        """All rows; null where `is_null`."""
        ...


class TensorColumn:
    """Of one output tensor: the whole of it, an element, or the largest. Only what is written is kept."""

    def __init__(self, verb: str, tensor: TensorSpec, kind: pa.DataType, place: int, rows: int) -> None:
        self._verb, self._tensor, self._kind, self._place = verb, tensor, kind, place
        dims = tensor.shape if verb == "all" else ()
        self._varies = any(isinstance(dim, str) for dim in dims)
        self._lists: list[Any] = [None] * rows if self._varies else []
        dtype = np.dtype(np.int64 if verb == "argmax" else tensor.dtype)
        self._values = np.zeros(
            (0 if self._varies else rows, *(int(dim) for dim in dims if isinstance(dim, int))), dtype
        )

    def put(self, rows: NDArray[np.int64], outputs: Mapping[str, NDArray[Any]]) -> None:
        given = outputs[self._tensor.name]
        if self._varies:
            for row, value in zip(rows.tolist(), given, strict=True):
                self._lists[row] = value.tolist()
        elif self._verb == "all":
            self._values[rows] = given
        elif self._verb == "argmax":
            self._values[rows] = given.argmax(axis=1)
        elif self._verb == "max":
            self._values[rows] = largest(given)
        else:
            self._values[rows] = given.reshape(len(rows), -1)[:, self._place]

    def put_values(self, rows: NDArray[np.int64], values: Sequence[Any]) -> None:
        raise TypeError(f"values came for output {self._tensor.name!r}, which is a tensor")

    def array(self, is_null: NDArray[np.bool_] | None) -> pa.Array:
        if self._varies:
            return pa.array(self._lists, self._kind)
        dims = self._values.shape[1:]
        if not dims:
            return pa.array(self._values, self._kind, mask=is_null)
        array = pa.array(self._values.reshape(-1))
        for place in range(len(dims) - 1, -1, -1):
            mask = pa.array(is_null) if place == 0 and is_null is not None else None
            array = pa.FixedSizeListArray.from_arrays(array, dims[place], mask=mask)
        return array if prod(dims) else pa.array([[]] * len(self._values), self._kind)


def largest(rows: NDArray[Any]) -> NDArray[Any]:
    """Of each row; NaN where it has one. Column by column where rows are narrow: numpy starts anew for each row."""
    if 0 < rows.shape[1] <= _NARROW:
        return reduce(np.maximum, rows.T)
    return rows.max(axis=1)  # type: ignore[no-any-return]


class ValueColumn:
    """Of the plain values that a postprocess gives: an entry of them as a number or a text."""

    def __init__(self, verb: str, source: str, kind: pa.DataType, rows: int) -> None:
        self._verb, self._kind = verb, kind
        self._paths = [path.split(".") if path else [] for path in source.split("|")]
        self._found: list[Any] = [None] * rows

    def put(self, rows: NDArray[np.int64], outputs: Mapping[str, NDArray[Any]]) -> None:
        """Tensors bring none."""

    def put_values(self, rows: NDArray[np.int64], values: Sequence[Any]) -> None:
        for row, value in zip(rows.tolist(), values, strict=True):
            self._found[row] = self._told(value)

    def array(self, is_null: NDArray[np.bool_] | None) -> pa.Array:
        return pa.array(self._found, self._kind, mask=is_null)

    def _told(self, value: Any) -> Any:
        found = next((entry for path in self._paths if (entry := _at(value, path)) is not None), None)
        if found is None:
            return None
        if self._verb == "text":
            return found if isinstance(found, str) else msgspec.json.encode(found).decode()
        try:
            return float(found) if self._verb == "float" else int(found)
        except (TypeError, ValueError, OverflowError):
            return None


def _at(value: Any, path: Sequence[str]) -> Any:
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value
