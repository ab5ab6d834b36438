"""One CSV or TSV file as pieces of raw values: lines that are none noted, not lost. Converts nothing.

Two things pyarrow would do are prevented. A quote that is never closed takes the rest of the file into one value: behind the
end stands a line that must come out as a wrong one. And a wrong line that is no UTF-8 cannot be told, so that the whole
file fails: it is then read as Latin-1, in which all bytes are text, and turned back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import pyarrow.csv as pcsv

from broker.errors import RunError
from operators.runs.data.files import Entry, Files
from operators.runs.data.slices import Piece, after

BLOCK_BYTES = 4 << 20  # a line must fit into one
_HEADER_BYTES = 64 << 10
_BOM = b"\xef\xbb\xbf"
_END = "\x02 end of the file \x03"
_UTF8, _LATIN1 = "utf8", "latin1"
_UNTOLD = re.compile(r"Expected \d+ columns, got \d+")


class CsvFile:
    """Reads from the beginning, each time anew. `header`: its column names, each once."""

    def __init__(self, files: Files, entry: Entry) -> None:
        self.entry = entry
        self._files = files
        self._delimiter = self._sniffed()
        self.header = self._header()

    def sample(self, rows: int) -> pa.Table:
        """The first rows, as bytes; those of other length left out."""
        with self._files.opened(self.entry) as stream:
            try:
                for batch in self._open(stream, self.header, _LATIN1, lambda line: "skip"):
                    return _turned_back(pa.table(batch.slice(0, rows).columns, names=self.header))
            except (pa.ArrowException, OSError) as error:
                raise self._broken(0, error) from None
        return _binary(self.header).empty_table()

    def pieces(self, names: Sequence[str]) -> Iterator[Piece]:
        """All rows, null where a value is empty and not quoted. Raises RunError when the file's structure is broken."""
        done = 0
        try:
            for piece in self._read(names, _UTF8):
                done += piece.table.num_rows
                yield piece
            return
        except _NoUtf8:
            pass
        for piece in after(self._read(names, _LATIN1), done):
            yield Piece(_turned_back(piece.table), piece.errors)

    def _read(self, names: Sequence[str], encoding: str) -> Iterator[Piece]:
        bad = list[tuple[int, str]]()  # row of the file, why; those of the blocks parsed so far, in order
        is_ended = False

        def note(line: pcsv.InvalidRow) -> str:
            nonlocal is_ended
            if line.text.startswith(_END):
                is_ended = True
                return "skip"
            text = line.text if len(line.text) <= 80 else line.text[:80] + "..."
            # numbers count from 1, with the header
            bad.append(
                (line.number - 2, f"line has {line.actual_columns} values, {line.expected_columns} are wanted: {text}")
            )
            return "skip"

        done, schema = 0, _binary(names)
        with self._files.opened(self.entry) as stream:
            try:
                for batch in self._open(stream, names, encoding, note):
                    if batch.num_rows:
                        piece = _with_bad_rows(pa.table(batch.columns, names=list(names)), schema, done, bad)
                        done += piece.table.num_rows
                        yield piece
            except (pa.ArrowException, OSError) as error:
                if encoding == _UTF8 and _UNTOLD.search(str(error)):
                    raise _NoUtf8 from None
                raise self._broken(done, error) from None
        if not is_ended:
            raise self._broken(done - 1, "a quote is opened there or before, and never closed")
        if bad:  # at the file's very end
            yield _with_bad_rows(schema.empty_table(), schema, done, bad, is_last=True)

    def _header(self) -> list[str]:
        with self._files.opened(self.entry) as stream:
            try:
                reader = self._open(stream, None, _LATIN1, lambda line: "skip")
                names = [name.encode("latin1").decode() for name in reader.schema.names]
            except UnicodeDecodeError:
                raise self._broken(0, "its header is no UTF-8") from None
            except (pa.ArrowException, OSError) as error:
                raise self._broken(0, error) from None
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise RunError(f"input {self.entry.path} has column {twice[0]!r} twice in its header; rename one")
        return names

    def _open(
        self, stream: pa.NativeFile, names: Sequence[str] | None, encoding: str, note: Callable[[pcsv.InvalidRow], str]
    ) -> pcsv.CSVStreamingReader:
        """Values as bytes, whatever they are: checked one by one where they must be text. `names` None: the header only."""
        as_read = None if names is None else [name.encode().decode(encoding) for name in names]
        header = [name.encode().decode(encoding) for name in self.header] if names is not None else []
        end = f"\n{_END}{self._delimiter * max(1, len(header))}\n"
        return pcsv.open_csv(
            pa.PythonFile(_Fed(unpacked(stream, self.entry), end.encode()), "r"),
            read_options=pcsv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False, encoding=encoding),
            parse_options=pcsv.ParseOptions(
                delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=note
            ),
            convert_options=pcsv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.binary()),
                include_columns=as_read,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )

    def _sniffed(self) -> str:
        """A tab for .tsv; a semicolon where the header has no comma, as where commas are decimal."""
        if self.entry.suffix == ".tsv":
            return "\t"
        with self._files.opened(self.entry) as stream:
            try:
                header = bytes(unpacked(stream, self.entry).read(_HEADER_BYTES)).partition(b"\n")[0]
            except (pa.ArrowException, OSError) as error:
                raise self._broken(0, error) from None
        return ";" if b";" in header and b"," not in header else ","

    def _broken(self, row: int, error: object) -> RunError:
        line = " ".join(str(error).split())[:200]
        return RunError(
            f"input {self.entry.path} cannot be read as CSV after its row {max(0, row)} ({line}); mend the file there"
        )


class _NoUtf8(Exception):
    """A wrong line could not be told."""


class _Fed:
    """A stream without its byte order mark, and with a line behind its end."""

    closed = False

    def __init__(self, stream: pa.NativeFile, end: bytes) -> None:
        self._stream = stream
        self._end = end
        self._is_begun = False

    def read(self, size: int) -> bytes:
        data = bytes(self._stream.read(size))
        if not self._is_begun:
            self._is_begun = True
            data = data.removeprefix(_BOM)
        if not data:
            data, self._end = self._end, b""
        return data

    def close(self) -> None:
        """The stream is its opener's to close."""


def unpacked(stream: pa.NativeFile, entry: Entry) -> pa.NativeFile:
    return pa.CompressedInputStream(stream, entry.compression) if entry.compression else stream


def _binary(names: Sequence[str]) -> pa.Schema:
    return pa.schema([(name, pa.binary()) for name in names])


def _turned_back(table: pa.Table) -> pa.Table:
    """Values that were read as Latin-1, as they stand in the file."""
    columns = [
        pa.array(
            [None if value is None else value.decode().encode("latin1") for value in column.to_pylist()], pa.binary()
        )
        for column in table.columns
    ]
    return pa.table(columns, names=table.column_names)


def _with_bad_rows(
    table: pa.Table, schema: pa.Schema, done: int, bad: list[tuple[int, str]], *, is_last: bool = False
) -> Piece:
    """Puts nulls where lines were left out. `done`: rows of the file before this table, left out ones too."""
    parts, errors, start, place = list[pa.Table](), dict[int, str](), 0, done
    while bad and (is_last or bad[0][0] <= place + table.num_rows - start):
        row, text = bad.pop(0)
        before = max(0, row - place)
        parts += [table.slice(start, before), pa.table([pa.nulls(1, pa.binary())] * len(schema), schema=schema)]
        start, place = start + before, place + before + 1
        errors[place - 1 - done] = text
    if not errors:
        return Piece(table)
    return Piece(pa.concat_tables([*parts, table.slice(start)]), errors)
