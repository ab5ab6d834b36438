"""The output as it grows beside its parts, so that they need not all be read again at the end. Worth nothing after a crash.

Local files only. Whatever goes wrong with it ends the draft and never the run: the output is put together of the parts then.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from typing import Any

import pyarrow as pa
import structlog

from broker.errors import RunError
from operators.runs.data.files import told
from operators.runs.data.manifest import STAGED, PartNote
from operators.runs.data.shelf import Shelf
from operators.runs.data.writers import Tables, open_tables

GROUP_ROWS = 131_072  # of a row group in the output; small parts are put together to these
GROUP_BYTES = 64 << 20

log = structlog.get_logger()


class Grouped:
    """Tables into a stream, small ones together."""

    def __init__(self, kind: str, stream: Any) -> None:
        self._kind = kind
        self._stream = stream
        self._writer: Tables | None = None
        self._schema: pa.Schema | None = None  # of the first
        self._kept: list[pa.Table] = []
        self._rows = self._size = 0  # of those

    def write(self, table: pa.Table) -> None:
        self._schema = self._schema or table.schema
        if not table.schema.equals(self._schema):  # of parts that an older version wrote: Parquet knows fewer types
            table = table.cast(self._schema)
        self._kept.append(table)
        self._rows += table.num_rows
        self._size += table.nbytes
        if self._rows >= GROUP_ROWS or self._size >= GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """The stream stays open."""
        if self._kept:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        if self._writer is None:
            self._writer = open_tables(self._kind, self._stream, self._schema)
        self._writer.write(pa.concat_tables(self._kept))
        self._kept, self._rows, self._size = [], 0, 0


class Draft:
    """Of one turn of one run. Calls come from one thread at a time."""

    def __init__(self, shelf: Shelf, kind: str) -> None:
        self._shelf = shelf
        self._path = (
            f"{shelf.parts}/draft-{secrets.token_hex(4)}"  # one who lost the run without knowing may write still
        )
        self._kind = kind
        self._notes: list[PartNote] = []
        self._rows = 0
        self._stream: Any = None
        self._writer: Grouped | None = None
        self._is_over = not shelf.is_local or shelf.is_folder

    def add(self, note: PartNote, table: pa.Table) -> None:
        """A part was written; only from the first on, in order, do they make an output."""
        if self._is_over:
            return
        if note.first_row != self._rows:
            self.drop()
            return
        try:
            with told(self._path, "write"):
                if self._writer is None:
                    self._stream = pa.OSFile(self._path, "wb")
                    self._writer = Grouped(self._kind, self._stream)
                else:
                    os.fdatasync(self._stream.fileno())  # what stands there now need not be waited for at the end
                self._writer.write(table)
        except RunError as error:
            self._give_up(error)
            return
        self._notes.append(note)
        self._rows += note.rows

    def stage(self, notes: list[PartNote]) -> bool:
        """Whether it holds just these parts: then it is on the disk, under the name of what is to be the output."""
        if self._is_over or self._writer is None or self._notes != notes:
            self.drop()
            return False
        try:
            with told(self._path, "write"):
                self._writer.close()
                self._stream.close()
                self._shelf.rename_written(self._path, STAGED)
        except RunError as error:
            self._give_up(error)
            return False
        self._is_over = True
        return True

    def drop(self) -> None:
        """Removes it, if it is there still; nothing is added any more."""
        self._is_over = True
        self._notes, self._writer = [], None
        stream, self._stream = self._stream, None
        if stream is None:
            return
        with suppress(OSError):  # no room for its last bytes: its room is wanted for the output
            stream.close()
        with suppress(OSError):  # gone, or under its new name
            os.unlink(self._path)

    def _give_up(self, error: RunError) -> None:
        log.warning("no draft", path=self._path, error=str(error), next="the output is put together of its parts")
        self.drop()
