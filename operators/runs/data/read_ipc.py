"""Arrow IPC: files, whose batches are found without reading those before, and streams, which are read from their beginning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from broker.errors import RunError
from operators.runs.data.agree import Agreement
from operators.runs.data.files import Entry, Files
from operators.runs.data.slices import Piece, after

_MAGIC = b"ARROW1"


class IpcReader:
    """Rows are known by reading only: a batch tells its length when it is decoded."""

    rows: int | None = None

    def __init__(self, files: Files) -> None:
        self._files = files
        agreement, self.rows_guess = Agreement(files.url), 0
        for entry in files.entries:
            with files.opened(entry) as stream:
                agreement.add(entry.path, _schema(stream, entry))
        self.schema: pa.Schema = agreement.schema
        for batch in self._batches(self.schema.names):
            self.rows_guess = max(batch.num_rows, files.size_bytes * batch.num_rows // max(1, batch.nbytes))
            break

    def pieces(self, skip: int, columns: Sequence[str] | None, most: int) -> Iterator[Piece]:
        names = self.schema.names if columns is None else list(columns)
        return after((Piece(batch) for batch in self._batches(names)), skip)

    def _batches(self, names: list[str]) -> Iterator[pa.Table]:
        """Those with rows."""
        wanted = pa.schema([self.schema.field(name) for name in names])
        for entry in self._files.entries:
            with self._files.opened(entry) as stream:
                for batch in _read(stream, entry):
                    table = pa.Table.from_batches([batch]).select(names)
                    if table.num_rows:
                        yield table if table.schema.equals(wanted) else table.cast(wanted)


def _schema(stream: pa.NativeFile, entry: Entry) -> pa.Schema:
    try:
        opened = pa.ipc.open_file(stream) if _is_file(stream) else pa.ipc.open_stream(stream)
    except (pa.ArrowException, OSError) as error:
        raise _broken(entry, "", error) from None
    return opened.schema


def _read(stream: pa.NativeFile, entry: Entry) -> Iterator[pa.RecordBatch]:
    number = 0
    try:
        if _is_file(stream):
            file = pa.ipc.open_file(stream)
            for number in range(file.num_record_batches):
                yield file.get_batch(number)
        else:
            for batch in pa.ipc.open_stream(stream):
                yield batch
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise _broken(entry, f" in record batch {number}", error) from None


def _is_file(stream: pa.NativeFile) -> bool:
    stream.seek(0)
    magic = stream.read(len(_MAGIC))
    stream.seek(0)
    return bool(magic == _MAGIC)


def _broken(entry: Entry, where: str, error: Exception) -> RunError:
    line = " ".join(str(error).split())[:200]
    return RunError(f"input {entry.path} cannot be read as Arrow{where} ({line}); write it again or leave it out")
