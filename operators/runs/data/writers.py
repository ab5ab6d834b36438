"""Tables to a stream as Parquet, CSV or JSON lines, one after another, so that memory holds one. Names no file."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from operators.runs.data.convert import is_text

_LINES = 65_536  # rows that are Python objects at once
_ENCODER = msgspec.json.Encoder()


class Tables(Protocol):
    """A stream being written."""

    def write(self, table: pa.Table) -> None: ...

    def close(self) -> None:
        """Writes what ends the format; the stream stays open."""


def open_tables(kind: str, stream: Any, schema: pa.Schema) -> Tables:
    """For tables of this schema, one after another."""
    if kind == "parquet":
        return _Parquet(stream, schema)
    return _Csv(stream) if kind == "csv" else _Lines(stream)


class _Parquet:
    """A row group for each table."""

    def __init__(self, stream: Any, schema: pa.Schema) -> None:
        # Texts repeat (a version, an error), keys and scores do not: to look each up in a dictionary took longer than all the rest.
        texts = [field.name for field in schema if is_text(field.type)]
        self._writer = pq.ParquetWriter(stream, schema, use_dictionary=texts or False)

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))

    def close(self) -> None:
        self._writer.close()


class _Csv:
    """With a head line."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._writer: pcsv.CSVWriter | None = None

    def write(self, table: pa.Table) -> None:
        flat = pa.table([_flat(column) for column in table.columns], names=table.column_names)
        self._writer = self._writer or pcsv.CSVWriter(self._stream, flat.schema)
        self._writer.write_table(flat)

    def close(self) -> None:
        if self._writer:
            self._writer.close()


class _Lines:
    """JSON. NaN becomes null, bytes base64: it has neither."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, table: pa.Table) -> None:
        for start in range(0, table.num_rows, _LINES):
            self._stream.write(_ENCODER.encode_lines(table.slice(start, _LINES).to_pylist()))

    def close(self) -> None:
        """Nothing ends it."""


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
