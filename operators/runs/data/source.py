"""What a run reads: one or many files as one sequence of rows, in chunks that are the same each time. Knows no model.

The format is a Reader of its own module; this one picks it and cuts what it gives into chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import pyarrow as pa

from broker.errors import RunError
from operators.runs.data.files import Files
from operators.runs.data.folder import FolderReader
from operators.runs.data.read_csv import CsvReader
from operators.runs.data.read_ipc import IpcReader
from operators.runs.data.read_jsonl import JsonlReader
from operators.runs.data.read_parquet import ParquetReader
from operators.runs.data.slices import Chunk, Piece, cut

KINDS = ("parquet", "csv", "jsonl", "arrow", "files")
_OF_SUFFIX = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".arrow": "arrow", ".arrows": "arrow", ".feather": "arrow", ".ipc": "arrow",
}  # fmt: skip


class Reader(Protocol):
    """One format. `schema` says what the values are: formats of text may give tables of text, converted by a binding."""

    schema: pa.Schema

    @property
    def rows(self) -> int | None: ...

    @property
    def rows_guess(self) -> int: ...

    def pieces(self, skip: int, columns: Sequence[str] | None, most: int) -> Iterator[Piece]:
        """From row `skip` on, at most about `most` rows in a piece, only those columns."""
        ...


class Source:
    """An opened input. Opening again gives the same `fingerprint` unless a file was added, removed or changed.

    `kind`: one of KINDS. `rows`: None where only reading tells (CSV, JSONL, Arrow streams); `rows_guess` is always there.
    `schema`: columns in the first file's order. For CSV it is guessed from the first block, and tables hold text that
    `Binding` converts; elsewhere tables have its types.
    """

    def __init__(self, files: Files, kind: str, reader: Reader) -> None:
        self.files = files
        self.kind = kind
        self.fingerprint = files.fingerprint()
        self.schema: pa.Schema = reader.schema
        self.rows = reader.rows
        self.rows_guess = reader.rows_guess
        self._reader = reader

    @property
    def size_bytes(self) -> int:
        """Of the files as they lie there, packed or not."""
        return self.files.size_bytes

    def fitting_rows(self, limit_bytes: int, *, most: int) -> int:
        """How many rows of a chunk hold about so many bytes, at least 1 and at most `most`: images are larger than numbers.

        By the mean, before any packing that a format may do; the same for the same files.
        """
        return max(1, min(most, limit_bytes * self.rows_guess // max(1, self.size_bytes)))

    @property
    def url(self) -> str:
        return self.files.url

    def check_apart(self, output: str) -> None:
        """Raises RunError when an output there would be part of this input, or over it: the next run would read it."""
        if self.files.would_hold(output):
            raise RunError(f"output {output} lies within the input {self.url}; write it to another place")

    def chunks(self, rows: int, *, first: int = 0, columns: Sequence[str] | None = None) -> Iterator[Chunk]:
        """Chunks of `rows` rows (the last may be shorter) from number `first` on; memory holds one or two of them.

        `columns`: those to read, such as `binding.columns`; None reads all. Rows that cannot be read (a corrupt row group,
        a line that is no JSON) are in `Chunk.errors`, with nulls in the table. Raises RunError when a file went away or
        changed since the source was opened, or its structure is gone; the text names the file.
        """
        if rows < 1:
            raise RunError(f"rows per chunk is {rows}; give at least 1")
        return cut(self._reader.pieces(first * rows, columns, rows), rows, first)


def open_source(url: str, *, kind: str = "", roots: Sequence[str] = ()) -> Source:
    """Opens a file, folder, glob or fsspec URL; several files are one source, in the order of their names.

    `kind` is told by the files' names unless given. Raises RunError: nothing there, an unknown kind, an empty input,
    a file whose structure is broken, files that do not fit together; and one that does not lie within `roots`, unread (() is anywhere).
    """
    files = Files(url, roots)
    kind = kind or kind_of(files)
    readers: dict[str, Callable[[Files], Reader]] = {
        "parquet": ParquetReader,
        "csv": CsvReader,
        "jsonl": JsonlReader,
        "arrow": IpcReader,
        "files": FolderReader,
    }
    if kind not in readers:
        raise RunError(f"input kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    reader = readers[kind](files)
    if reader.rows == 0 or (reader.rows is None and reader.rows_guess == 0):
        raise RunError(f"input {url} holds no rows; name an input that has some")
    return Source(files, kind, reader)


def kind_of(files: Files) -> str:
    """By the names' extensions; a folder or glob of other files is "files". Raises RunError where that says nothing."""
    kinds = {_OF_SUFFIX.get(entry.suffix, "files") for entry in files.entries}
    if len(kinds) > 1:
        raise RunError(
            f"input {files.url} mixes {' and '.join(sorted(kinds))}; name one sort with a glob, or say which kind it is"
        )
    kind = kinds.pop()
    if kind == "files" and len(files.entries) == 1 and files.url.rstrip("/").endswith(files.entries[0].name):
        raise RunError(f"input {files.url} has no extension that tells its kind; say which: {', '.join(KINDS)}")
    return kind
