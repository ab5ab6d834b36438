"""Tables to a stream as Parquet, CSV or JSON lines, one after another, so that memory holds one. Names no file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from operators.runs.data.convert import is_text

_LINES = 65_536  # rows that are Python objects at once
_ENCODER = msgspec.json.Encoder()


def write(kind: str, stream: Any, tables: Iterable[pa.Table]) -> None:
    """All tables, which have one schema; there is at least one."""
    writing = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}[kind]
    writing(stream, tables)


def _parquet(stream: Any, tables: Iterable[pa.Table]) -> None:
    writer = None
    for table in tables:
        if writer is None:
            # Texts repeat (a version, an error), scores do not: to look each up in a dictionary was a fifth of the time.
            texts = [field.name for field in table.schema if is_text(field.type)]
            writer = pq.ParquetWriter(stream, table.schema, use_dictionary=texts or False)
        writer.write_table(table, row_group_size=max(1, table.num_rows))
    if writer:
        writer.close()


def _csv(stream: Any, tables: Iterable[pa.Table]) -> None:
    writer = None
    for table in tables:
        flat = pa.table([_flat(column) for column in table.columns], names=table.column_names)
        writer = writer or pcsv.CSVWriter(stream, flat.schema)
        writer.write_table(flat)
    if writer:
        writer.close()


def _jsonl(stream: Any, tables: Iterable[pa.Table]) -> None:
    """NaN becomes null, bytes base64: JSON has neither."""
    for table in tables:
        for start in range(0, table.num_rows, _LINES):
            stream.write(_ENCODER.encode_lines(table.slice(start, _LINES).to_pylist()))


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """CSV has no lists; they become JSON."""
    if pa.types.is_nested(column.type):
        return pa.chunked_array(
            [[None if value is None else _ENCODER.encode(value).decode() for value in column.to_pylist()]], pa.string()
        )
    if is_text(column.type) and not pa.types.is_string(column.type):
        texts = [
            value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
            for value in column.to_pylist()
        ]
        return pa.chunked_array([texts], pa.string())
    return column
