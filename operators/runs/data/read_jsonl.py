"""JSON lines, packed or not. A line that is no JSON object, or holds another type than the column, costs its own row.

The schema is a guess from the first lines. A block of good lines is parsed by pyarrow; one with a bad line, line by line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.json as pjson

from broker.errors import RunError
from operators.runs.data.csv_file import unpacked
from operators.runs.data.files import Entry, Files
from operators.runs.data.lines import by_line, columns_of, guess
from operators.runs.data.slices import Piece, after

BLOCK_BYTES = 4 << 20
MOST_LINE_BYTES = 256 << 20
_SAMPLE_BYTES = 1 << 20


class JsonlReader:
    """Reads every file from its beginning: where row n stands is known only by reading. Blank lines are no rows."""

    rows: int | None = None

    def __init__(self, files: Files) -> None:
        self._files = files
        sample = next(self._blocks(_SAMPLE_BYTES), b"")
        lines = [line for line in sample.split(b"\n") if line.strip()]
        if not lines:
            raise RunError(f"input {files.url} is empty; name an input that has rows")
        self.schema: pa.Schema = guess(lines, files.url)
        packed = any(entry.compression for entry in files.entries)
        self.rows_guess = max(len(lines), int(files.size_bytes * (4 if packed else 1) * len(lines) / len(sample)))

    def pieces(self, skip: int, columns: Sequence[str] | None, most: int) -> Iterator[Piece]:
        names = self.schema.names if columns is None else list(columns)
        wanted = pa.schema([self.schema.field(name) for name in names])
        return after((_parsed(block, wanted) for block in self._blocks(BLOCK_BYTES)), skip)

    def _blocks(self, size: int) -> Iterator[bytes]:
        """Whole lines, of all files."""
        for entry in self._files.entries:
            with self._files.opened(entry) as stream:
                yield from _lines(unpacked(stream, entry), entry, size)


def _lines(stream: pa.NativeFile, entry: Entry, size: int) -> Iterator[bytes]:
    rest = list[bytes]()
    try:
        while data := stream.read(size):
            end = data.rfind(b"\n") + 1
            if end:
                yield b"".join([*rest, data[:end]])
                rest = []
            rest.append(data[end:])
            if sum(map(len, rest)) > MOST_LINE_BYTES:
                raise RunError(f"input {entry.path} has a line of more than {MOST_LINE_BYTES} bytes; is it JSON lines?")
    except (pa.ArrowException, OSError) as error:
        line = " ".join(str(error).split())[:200]
        raise RunError(f"input {entry.path} cannot be read ({line}); write it again or leave it out") from None
    if last := b"".join(rest):
        yield last


def _parsed(block: bytes, wanted: pa.Schema) -> Piece:
    lines = [line for line in block.split(b"\n") if line.strip()]
    if not lines:
        return Piece(wanted.empty_table())
    try:
        if any(pa.types.is_null(field.type) for field in wanted):
            raise KeyError("of columns whose first values were null, each block tells the type")
        table = pjson.read_json(
            pa.BufferReader(block),
            read_options=pjson.ReadOptions(block_size=len(block) + 1, use_threads=False),
            parse_options=pjson.ParseOptions(explicit_schema=wanted, unexpected_field_behavior="ignore"),
        )
        if table.num_rows == len(lines):
            return Piece(table.select(wanted.names))
    except (pa.ArrowException, KeyError):
        pass
    return columns_of(*by_line(lines, wanted.names), wanted)
