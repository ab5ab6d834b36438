"""Columns of any type into numpy arrays or Arrow types that a run needs; what cannot be converted is told row by row.

Good data takes a handful of calls whatever its length; rows are looked at one by one only to find those to blame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_MOST_OFFSET = (1 << 31) - 1  # bytes that one array of binary or string can hold
_TOGETHER = 32  # rows; in a shorter stretch that does not convert each is tried by itself
_NOT_FINITE = frozenset({b"nan", b"inf", b"infinity"})


def whole(column: pa.ChunkedArray) -> pa.Array:
    """One array, copied only where there were several."""
    if isinstance(column, pa.ChunkedArray):
        large = {pa.binary(): pa.large_binary(), pa.string(): pa.large_string()}
        if column.type in large and column.nbytes > _MOST_OFFSET:
            column = column.cast(large[column.type])
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    else:
        array = column
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)
        or types.is_string_view(kind) or types.is_binary_view(kind) or types.is_fixed_size_binary(kind)
    )  # fmt: skip


def is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)
        or types.is_null(kind)
    )  # fmt: skip


def numbers(array: pa.Array, dtype: np.dtype[Any], what: str) -> tuple[NDArray[Any], dict[int, str]]:
    """Values of `dtype`, and row -> why not. A fraction for an integer, and what leaves the dtype's range, do not fit."""
    if array.null_count == 0 and array.type == _arrow(dtype) and not pa.types.is_boolean(array.type):
        return array.to_numpy(zero_copy_only=True), {}
    faults = dict[int, str]()
    if array.null_count:
        places = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)).tolist()
        faults = dict.fromkeys(places, f"{what} is null")
        if array.null_count == len(array):
            return np.zeros(len(array), dtype), faults
    if not len(array):
        return np.zeros(0, dtype), faults
    if is_text(array.type):
        values, wrong = _written(array, dtype, what)
        return values, wrong | faults
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    came = array.fill_null(False if pa.types.is_boolean(array.type) else 0) if array.null_count else array
    values, misfits = _same(came.to_numpy(zero_copy_only=False), dtype)
    return values, {row: f"{what}: {came[row].as_py()!r} is no {dtype}" for row in misfits} | faults


def fitted(
    column: pa.ChunkedArray | pa.Array, kind: pa.DataType, what: str, *, called: str = ""
) -> tuple[pa.Array, dict[int, str]]:
    """The column as `kind` (which is `called` so), null where a value is none; row -> why. Nulls stay, and are no fault here."""
    array = whole(column)
    if array.type == kind:
        return array, {}
    parts, faults = list[pa.Array](), dict[int, str]()
    _search(array, 0, kind, lambda shown: f"{what}: {shown} is no {called or kind}", parts, faults)
    return (parts[0] if len(parts) == 1 else pa.concat_arrays(parts)), faults


def _search(
    array: pa.Array,
    start: int,
    kind: pa.DataType,
    told: Callable[[str], str],
    parts: list[pa.Array],
    faults: dict[int, str],
) -> None:
    """Halves what does not convert as a whole, so that few bad values cost few casts."""
    try:
        parts.append(_cast(array, kind))
        return
    except (pa.ArrowException, UnicodeDecodeError):
        pass
    if len(array) > _TOGETHER:
        half = len(array) // 2
        _search(array[:half], start, kind, told, parts, faults)
        _search(array[half:], start + half, kind, told, parts, faults)
        return
    values = []
    for row, value in enumerate(array):
        try:
            values.append(_cast(pa.array([value.as_py()], array.type) if is_text(kind) else _trimmed(value), kind)[0])
        except (pa.ArrowException, UnicodeDecodeError):
            values.append(pa.scalar(None, kind))
            faults[start + row] = told(_shown(value))
    parts.append(pa.array([value.as_py() for value in values], kind))


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Bytes become numbers as the UTF-8 text they are."""
    if is_text(array.type) and not is_text(kind):
        array = array.cast(pa.string())
        if pa.types.is_float16(kind):
            return array.cast(pa.float32()).cast(kind)
    return array.cast(kind)


def _trimmed(value: pa.Scalar) -> pa.Array:
    found = value.as_py()
    return pa.array([found.strip() if isinstance(found, str | bytes) else found], value.type)


def _shown(value: pa.Scalar) -> str:
    found = value.as_py()
    text = found.decode(errors="backslashreplace") if isinstance(found, bytes) else found
    shown = repr(text)
    return shown if len(shown) <= 60 else shown[:60] + "..."


def _written(texts: pa.Array, dtype: np.dtype[Any], what: str) -> tuple[NDArray[Any], dict[int, str]]:
    """Texts of numbers. One like 1e400 reads as infinity, and is no value of a float."""
    array, faults = fitted(texts, _arrow(dtype), what, called=str(dtype))
    filled = array.fill_null(False if pa.types.is_boolean(array.type) else 0) if array.null_count else array
    values = filled.to_numpy(zero_copy_only=False)
    if dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        for row in np.flatnonzero(~finite).tolist():
            text = texts[row].as_py()
            if (text.encode() if isinstance(text, str) else text).strip().lstrip(b"+-").lower() not in _NOT_FINITE:
                faults[row] = f"{what}: {_shown(texts[row])} is no {dtype}"
    return values, faults


def _same(values: NDArray[Any], dtype: np.dtype[Any]) -> tuple[NDArray[Any], list[int]]:
    """`values` as `dtype`, and the places of those that are not what they were. A float may lose its last digits."""
    came, wanted = values.dtype.kind, dtype.kind
    if came == "b" or values.dtype == dtype:
        return values.astype(dtype), []
    with np.errstate(over="ignore", invalid="ignore"):
        if wanted == "f":
            cast = values.astype(dtype)
            is_same = np.isfinite(cast) | ~np.isfinite(values)
        elif wanted == "b":
            cast, is_same = values != 0, (values == 0) | (values == 1)
        else:
            least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
            if came == "f":
                is_same = (np.trunc(values) == values) & (values >= float(least)) & (values < float(most) + 1.0)
            else:
                is_same = (values >= least) & (values <= most)
            cast = np.where(is_same, values, 0).astype(dtype)
    return cast, np.flatnonzero(~is_same).tolist()


def _arrow(dtype: np.dtype[Any]) -> pa.DataType:
    return pa.from_numpy_dtype(dtype)
