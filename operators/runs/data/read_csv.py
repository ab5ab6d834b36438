"""CSV and TSV files with a header, packed or not. Gives text; `Binding` converts it, so that a wrong value costs its own row.

The schema is a guess from the first rows of the first file: a column counts as numbers when most of its values are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from broker.errors import RunError
from operators.runs.data.csv_file import CsvFile
from operators.runs.data.files import Entry, Files
from operators.runs.data.resolve import AS_TEXT
from operators.runs.data.slices import Piece, after

_SAMPLE_ROWS = 2000
_PACKED = 4  # how much longer text is than its packed form, about
_NUMBER = r"^\s*[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|nan|NaN|inf)\s*$"
_WHOLE = r"^(-?[1-9]\d{0,17}|0)$"  # comes back as it was written
_FLAG = "^(true|false|True|False|TRUE|FALSE)$"


class CsvReader:
    """Reads every file from its beginning: where row n stands is known only by reading."""

    rows: int | None = None

    def __init__(self, files: Files) -> None:
        self._files = [CsvFile(files, entry) for entry in files.entries if entry.size]
        if not self._files:
            raise RunError(f"input {files.url} is empty, 0 bytes; name an input that has rows")
        first = self._files[0]
        for file in self._files:
            if missing := [name for name in first.header if name not in file.header]:
                raise RunError(
                    f"input {file.entry.path} has no column {missing[0]!r}, and {first.entry.path} has; "
                    "give files of one sort, for instance with a glob"
                )
        sample = first.sample(_SAMPLE_ROWS)
        self.schema: pa.Schema = pa.schema(
            [(name, looks_like(sample[name])) for name in first.header], metadata={AS_TEXT: b"1"}
        )
        self.rows_guess = _rows_guess(files.size_bytes, first.entry, sample)

    def pieces(self, skip: int, columns: Sequence[str] | None, most: int) -> Iterator[Piece]:
        names = self.schema.names if columns is None else list(columns)
        return after((piece for file in self._files for piece in file.pieces(names)), skip)


def looks_like(values: pa.ChunkedArray) -> pa.DataType:
    """int64, double, bool or string: what most of these texts are. Whole numbers that are written oddly, as 007, are doubles:
    as keys those stay text.
    """
    try:
        texts = values.cast(pa.string()).drop_null()
    except pa.ArrowException:
        return pa.string()
    if not len(texts):
        return pa.null()
    if _all(texts, _FLAG):
        return pa.bool_()
    numbers = texts.filter(pc.match_substring_regex(texts, _NUMBER))
    if 2 * len(numbers) <= len(texts):
        return pa.string()
    return pa.int64() if len(numbers) == len(texts) and _all(texts, _WHOLE) else pa.float64()


def _all(texts: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(texts, pattern)).as_py())


def _rows_guess(size: int, first: Entry, sample: pa.Table) -> int:
    """By the mean length of the sampled lines."""
    if not sample.num_rows:
        return 0
    per_row = max(1.0, sample.nbytes / sample.num_rows - 3 * sample.num_columns)  # offsets are 4 bytes, a comma is 1
    return max(int(sample.num_rows), int(size * (_PACKED if first.compression else 1) / per_row))
