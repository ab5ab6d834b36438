"""A folder of any files, such as images: each file is a row. Reads them whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from broker.errors import RunError
from operators.runs.data.files import Entry, Files
from operators.runs.data.slices import Piece

MOST_BYTES = 256 << 20  # of one file; a larger one is an error of its row, unread
_TOGETHER_BYTES = 64 << 20

SCHEMA = pa.schema([("path", pa.string()), ("content", pa.binary())])


class FolderReader:
    """Columns `path` (relative to the folder) and `content`."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.schema: pa.Schema = SCHEMA
        self.rows: int = len(files.entries)
        self.rows_guess = self.rows

    def pieces(self, skip: int, columns: Sequence[str] | None, most: int) -> Iterator[Piece]:
        names = SCHEMA.names if columns is None else list(columns)
        batch, size = list[Entry](), 0
        for entry in self._files.entries[skip:]:
            if batch and (len(batch) >= most or size + entry.size > _TOGETHER_BYTES):
                yield self._read(batch, names)
                batch, size = [], 0
            batch.append(entry)
            size += entry.size
        if batch:
            yield self._read(batch, names)

    def _read(self, entries: list[Entry], names: list[str]) -> Piece:
        contents, errors = list[bytes | None](), dict[int, str]()
        for row, entry in enumerate(entries):
            try:
                contents.append(self._content(entry) if "content" in names else b"")
            except RunError as error:  # one file that went away or changed costs its own row
                contents.append(None)
                errors[row] = str(error)
        table = pa.table([[entry.name for entry in entries], contents], schema=SCHEMA)
        return Piece(table.select(names), errors)

    def _content(self, entry: Entry) -> bytes:
        if entry.size > MOST_BYTES:
            raise RunError(f"{entry.path} has {entry.size} bytes, more than {MOST_BYTES}; cut it or leave it out")
        with self._files.opened(entry) as stream:
            return bytes(stream.read())
