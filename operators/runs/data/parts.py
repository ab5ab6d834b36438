"""The parts of an output: small Parquet files, each whole or not there. Keeps no notes."""

from __future__ import annotations

from hashlib import blake2b

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from broker.errors import RunError
from operators.runs.data.manifest import PartNote
from operators.runs.data.scored import ERROR
from operators.runs.data.shelf import Shelf

PREFIX = "part-"


def write_part(shelf: Shelf, index: int, table: pa.Table, first_row: int) -> PartNote:
    """Writes part `index`, over one that was there."""
    stream = pa.BufferOutputStream()
    pq.write_table(table, stream, row_group_size=max(1, table.num_rows))
    data = memoryview(stream.getvalue())
    name = f"{PREFIX}{index:06d}.parquet"
    shelf.put(name, data)
    failed = pc.count(table[ERROR]).as_py() if ERROR in table.column_names else 0
    return PartNote(index, name, first_row, table.num_rows, failed, len(data), _digest(data))


def read_part(shelf: Shelf, note: PartNote) -> pa.Table:
    """Raises RunError when the part is gone or not what was written."""
    path = f"{shelf.parts}/{note.name}"
    data = shelf.read(path)
    if len(data) != note.size or _digest(memoryview(data)) != note.digest:
        raise RunError(f"part {path} is not what the run wrote; resume the run: it makes that part again")
    return pq.read_table(pa.BufferReader(data))


def _digest(data: memoryview) -> str:
    return blake2b(data, digest_size=16).hexdigest()
