"""Parquet files, row group by row group. A row group that cannot be decoded costs its own rows, never the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from broker.errors import RunError
from operators.runs.data.agree import Agreement
from operators.runs.data.files import Entry, Files
from operators.runs.data.slices import Piece

_READ_AT_ONCE = 8  # footers, where each is a request


class Footer(msgspec.Struct, frozen=True):
    """What is kept of one file's footer: the rows of each row group."""

    entry: Entry
    groups: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(self.groups)


class ParquetReader:
    """All footers are read when the source is opened; so the rows are known, and skipping decodes nothing."""

    def __init__(self, files: Files) -> None:
        self._files = files
        agreement = Agreement(files.url)
        footers = []
        with ThreadPoolExecutor(1 if files.is_local else _READ_AT_ONCE) as pool:
            for schema, footer in pool.map(self._footer, files.entries):
                agreement.add(footer.entry.path, schema)
                footers.append(footer)
        self._footers = tuple(footers)
        self.schema: pa.Schema = agreement.schema
        self.rows: int = sum(footer.rows for footer in footers)
        self.rows_guess = self.rows

    def pieces(self, skip: int, columns: Sequence[str] | None, most: int) -> Iterator[Piece]:
        names = self.schema.names if columns is None else list(columns)
        wanted = pa.schema([self.schema.field(name) for name in names])
        for footer in self._footers:
            if skip >= footer.rows:
                skip -= footer.rows
                continue
            with self._files.opened(footer.entry) as stream:
                file = self._open(stream, footer.entry)
                for group, rows in enumerate(footer.groups):
                    if skip >= rows:
                        skip -= rows
                        continue
                    yield from _group(file, footer.entry, group, rows, skip, wanted, most)
                    skip = 0

    def _footer(self, entry: Entry) -> tuple[pa.Schema, Footer]:
        with self._files.opened(entry) as stream:
            file = self._open(stream, entry)
            counts = tuple(file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups))
            return file.schema_arrow, Footer(entry, counts)

    def _open(self, stream: object, entry: Entry) -> pq.ParquetFile:
        if entry.size == 0:
            raise RunError(f"input {entry.path} is empty, 0 bytes, and no Parquet file; write it again or leave it out")
        try:
            # Prebuffered are all columns of a row group, as they lie in the file: worth it where each read is a request.
            return pq.ParquetFile(stream, pre_buffer=not self._files.is_local, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            line = " ".join(str(error).split())[:200]
            raise RunError(
                f"input {entry.path} is no whole Parquet file ({line}); write it again or leave it out"
            ) from None


def _group(
    file: pq.ParquetFile, entry: Entry, group: int, rows: int, skip: int, wanted: pa.Schema, most: int
) -> Iterator[Piece]:
    """The rows of one row group from `skip` on. From where it cannot be decoded, rows are errors to its end."""
    done, fault = 0, "it holds fewer rows than the footer says"
    try:
        for batch in file.iter_batches(min(most, rows), row_groups=[group], columns=wanted.names):
            done += batch.num_rows
            if done > skip:
                table = pa.Table.from_batches([batch]).select(wanted.names)
                table = table if table.schema.equals(wanted) else table.cast(wanted, safe=False)
                yield Piece(table.slice(max(0, skip - (done - batch.num_rows))))
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # the disk or the store, not what is written there
        fault = " ".join(str(error).split())[:200]
    for start in range(max(done, skip), rows, most):
        lost = min(most, rows - start)
        text = f"row group {group} of {entry.path} cannot be read ({fault})"
        yield Piece(_nulls(wanted, lost), dict.fromkeys(range(lost), text))


def _nulls(schema: pa.Schema, rows: int) -> pa.Table:
    return pa.table([pa.nulls(rows, field.type) for field in schema], names=schema.names)
