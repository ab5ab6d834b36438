"""JSON lines one by one: which of them are rows, and what their columns are. The slow path, which knows whom to blame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa

from broker.errors import RunError
from operators.runs.data.slices import Piece

_DECODER = msgspec.json.Decoder()


def by_line(lines: Sequence[bytes], names: Sequence[str]) -> tuple[dict[str, list[Any]], dict[int, str]]:
    """Values per column, None where absent; row -> why it is none."""
    columns: dict[str, list[Any]] = {name: [None] * len(lines) for name in names}
    errors = dict[int, str]()
    for row, line in enumerate(lines):
        try:
            value = _DECODER.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            errors[row] = f"line is no JSON: {error}"
            continue
        if not isinstance(value, dict):
            errors[row] = f"line is no JSON object but a {type(value).__name__}"
            continue
        for name in columns.keys() & value.keys():
            columns[name][row] = value[name]
    return columns, errors


def columns_of(columns: dict[str, list[Any]], errors: dict[int, str], wanted: pa.Schema) -> Piece:
    """The columns in their types; a value that does not fit is an error of its row."""
    arrays = [_array(columns[field.name], field, errors) for field in wanted]
    return Piece(pa.table(arrays, names=wanted.names), errors)


def guess(lines: Sequence[bytes], url: str) -> pa.Schema:
    """Every name in the order of its first sight, with the type of most of its values."""
    rows = [value for line in lines if isinstance(value := _decoded(line), dict)]
    if not rows:
        raise RunError(f"input {url} holds no JSON object in its first {len(lines)} lines; give one object per line")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.schema([(name, _type([row[name] for row in rows if row.get(name) is not None])) for name in names])


def _decoded(line: bytes) -> Any:
    try:
        return _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _type(values: list[Any]) -> pa.DataType:
    try:
        return pa.array(values).type
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        pass
    kinds = dict[pa.DataType, int]()
    for value in values:
        try:
            kind = pa.scalar(value).type
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            continue
        kinds[kind] = kinds.get(kind, 0) + 1
    if pa.float64() in kinds and pa.int64() in kinds:
        kinds[pa.float64()] += kinds.pop(pa.int64())
    return max(kinds, key=lambda kind: kinds[kind]) if kinds else pa.null()


def _array(values: list[Any], field: pa.Field, errors: dict[int, str]) -> pa.Array:
    kind = field.type
    if pa.types.is_null(kind):
        kind = _type([value for value in values if value is not None])
    if pa.types.is_integer(kind) and any(type(value) is float for value in values):
        kind = pa.float64()  # the first lines held whole numbers only
    fitting: list[Any] = []
    for row, value in enumerate(values):
        if value is not None and row not in errors and not _fits(value, kind):
            errors[row] = (
                f"column {field.name!r}: {msgspec.json.encode(value)[:60].decode(errors='replace')} is no {kind}"
            )
        fitting.append(None if row in errors else value)
    return pa.array(fitting, kind)


def _fits(value: Any, kind: pa.DataType) -> bool:
    if isinstance(value, bool) != pa.types.is_boolean(kind) and not pa.types.is_nested(kind):
        return False
    try:
        pa.scalar(value, kind)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return False
    return True
