"""Columns into one model input: scalar columns side by side, a list column as it is, bytes and texts. Knows no mapping."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from broker.spec import TensorSpec
from operators.runs.data.convert import fitted, numbers, whole
from operators.runs.data.rows import Rows

_BYTES_AT_ONCE = 512 << 10  # so that the rows being filled stay in the cache while each column passes over them


def stacked(columns: list[tuple[str, pa.ChunkedArray]], tensor: TensorSpec) -> Rows:
    """Scalar columns to (rows, *shape), row-major in the columns' order. A dimension that varies takes what is left."""
    faults, arrays = dict[int, str](), list[NDArray[Any]]()
    for name, column in columns:
        array, wrong = numbers(whole(column), np.dtype(tensor.dtype), f"column {name!r}")
        arrays.append(array)
        faults = wrong | faults if wrong else faults
    count = len(arrays[0])
    shape = fixed_shape(tensor.shape, len(columns))
    if len(arrays) == 1:
        return Rows(np.ascontiguousarray(arrays[0]).reshape(count, *shape), faults)
    out = np.empty((count, len(arrays)), np.dtype(tensor.dtype))
    step = max(64, _BYTES_AT_ONCE // (len(arrays) * out.itemsize))
    for start in range(0, count, step):
        end = start + step
        for place, array in enumerate(arrays):
            out[start:end, place] = array[start:end]
    return Rows(out.reshape(count, *shape), faults)


def fixed_shape(shape: tuple[int | str, ...], values: int) -> tuple[int, ...]:
    """`shape` with the dimension that varies, if any, as `values` leaves it."""
    known = prod(dim for dim in shape if isinstance(dim, int))
    return tuple(dim if isinstance(dim, int) else values // max(1, known) for dim in shape)


def plain(column: pa.ChunkedArray, name: str, *, as_text: bool) -> tuple[list[Any], dict[int, str]]:
    """Bytes or texts, None where a row has none."""
    array, faults = fitted(column, pa.string() if as_text else pa.large_binary(), f"column {name!r}")
    if array.null_count:
        empty = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)).tolist()
        faults = dict.fromkeys(empty, f"column {name!r} is null") | faults
    return array.to_pylist(), faults


def lists(column: pa.ChunkedArray, tensor: TensorSpec, name: str) -> Rows:
    """A column of lists, flat or nested, to (rows, *shape); where the first dimension varies, rows of any length."""
    array, what = whole(column), f"column {name!r}"
    varies = any(isinstance(dim, str) for dim in tensor.shape)
    faults, ends, flat = _flattened(array, tensor.shape, what)
    lengths = np.diff(ends)
    known = prod(dim for dim in tensor.shape if isinstance(dim, int))
    bad = lengths % known != 0 if varies else lengths != known
    for row in np.flatnonzero(bad).tolist():
        faults.setdefault(
            row, f"{what} holds {lengths[row]} values, {f'a multiple of {known}' if varies else known} are wanted"
        )
    values, wrong = _leaves(flat, tensor, what)
    for place, text in wrong.items():
        faults.setdefault(int(np.searchsorted(ends, place, side="right")) - 1, text)
    if varies:
        return _varying(values, ends, lengths, faults, tensor, known)
    if not bad.any():
        return Rows(values.reshape(len(array), *(int(dim) for dim in tensor.shape)), faults)
    out = np.zeros((len(array), known), values.dtype)
    good = np.flatnonzero(~bad)
    out[good] = values[ends[good][:, None] + np.arange(known)]
    return Rows(out.reshape(len(array), *(int(dim) for dim in tensor.shape)), faults)


def _varying(
    values: NDArray[Any], ends: NDArray[np.int64], lengths: NDArray[np.int64], faults: dict[int, str],
    tensor: TensorSpec, known: int,
) -> Rows:  # fmt: skip
    """Only where all rows begin at a whole element can they stand in one array: those that do not were told, and are cut out."""
    if len(bad := np.flatnonzero(lengths % known)):
        keep = np.ones(len(values), bool)
        for row in bad.tolist():
            keep[ends[row] : ends[row + 1]] = False
        values = values[keep]
        lengths = lengths.copy()
        lengths[bad] = 0
        ends = np.concatenate([[0], np.cumsum(lengths)])
    inner = tuple(int(dim) for dim in tensor.shape[1:])
    return Rows(values.reshape(-1, *inner), faults, lengths // known, ends[:-1] // known)


def _flattened(
    array: pa.Array, shape: tuple[int | str, ...], what: str
) -> tuple[dict[int, str], NDArray[np.int64], pa.Array]:
    """(row -> why not, where each row begins among the values and the end of all, the values)."""
    faults = dict[int, str]()
    if array.null_count:
        empty = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)).tolist()
        faults = dict.fromkeys(empty, f"{what} is null")
    ends, array = _level(array)
    for dim in shape[1:]:
        if not pa.types.is_nested(array.type):
            break
        inner, array = _level(array)
        wrong = np.flatnonzero(np.diff(inner) != dim)
        for place in wrong.tolist():
            row = int(np.searchsorted(ends, place, side="right")) - 1
            faults.setdefault(
                row, f"{what} holds a list of {inner[place + 1] - inner[place]} values inside, {dim} are wanted"
            )
        ends = inner[ends]
    return faults, ends, array


def _level(array: pa.Array) -> tuple[NDArray[np.int64], pa.Array]:
    """Offsets from 0, and the values they cut. A null list is an empty one."""
    if pa.types.is_fixed_size_list(array.type):
        width = array.type.list_size
        if not array.null_count:
            return np.arange(len(array) + 1, dtype=np.int64) * width, array.values[
                array.offset * width : (array.offset + len(array)) * width
            ]
        array = array.cast(pa.list_(array.type.value_type))
    if pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type) or array.null_count:
        # Values of a null may still lie under it; and views, which know no order, pyarrow 26 casts to lists with wrong offsets.
        lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        return np.concatenate([[0], np.cumsum(lengths)]), array.flatten()
    offsets = array.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], array.values[int(offsets[0]) : int(offsets[-1])]


def _leaves(flat: pa.Array, tensor: TensorSpec, what: str) -> tuple[NDArray[Any], dict[int, str]]:
    return numbers(whole(flat), np.dtype(tensor.dtype), f"a value of {what}")
