"""The parts of an output: small files, each whole or not there. Keeps no notes.

Arrow files, which cost next to nothing to write and to read; Parquet where the output is a folder of Parquet files, whose
parts they become.
"""

from __future__ import annotations

from hashlib import blake2b

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from isal.isal_zlib import crc32

from broker.errors import RunError
from operators.runs.data.manifest import PartNote
from operators.runs.data.scored import ERROR
from operators.runs.data.shelf import Shelf
from operators.runs.data.writers import open_tables

PREFIX = "part-"
PARQUET, ARROW = ".parquet", ".arrow"
CRC32 = "crc32:"


def write_part(
    shelf: Shelf, index: int, table: pa.Table, first_row: int, *, is_final: bool
) -> tuple[PartNote, pa.Table]:
    """Writes part `index`, over one that was there. `is_final`: it is to be a file of the output.

    What is given back is for keeping: key columns of `table` may be cut from a batch of the input, and who keeps them keeps all of it.
    """
    stream = pa.BufferOutputStream()
    writer = open_tables("parquet", stream, table.schema) if is_final else pa.ipc.new_file(stream, table.schema)
    writer.write(table)
    writer.close()
    buffer = stream.getvalue()
    data = memoryview(buffer)
    name = f"{PREFIX}{index:06d}{PARQUET if is_final else ARROW}"
    shelf.put(name, data)
    failed = pc.count(table[ERROR]).as_py() if ERROR in table.column_names else 0
    note = PartNote(index, name, first_row, table.num_rows, failed, len(data), _checksum(data))
    return note, table if is_final else pa.ipc.open_file(buffer).read_all()


def read_part(shelf: Shelf, note: PartNote) -> pa.Table:
    """Raises RunError when the part is gone or not what was written."""
    path = f"{shelf.parts}/{note.name}"
    data = shelf.read(path)
    if len(data) != note.size or not _is_of(memoryview(data), note.checksum):
        raise RunError(f"part {path} is not what the run wrote; resume the run: it makes that part again")
    buffer = pa.BufferReader(data)
    return pq.read_table(buffer) if note.name.endswith(PARQUET) else pa.ipc.open_file(buffer).read_all()


def _checksum(data: memoryview) -> str:
    """Against accidents: who may write beside the output may write the output."""
    return f"{CRC32}{crc32(data):08x}"


def _is_of(data: memoryview, checksum: str) -> bool:
    """Versions before noted a blake2b: a run of theirs goes on, and its failed rows are retried, with the parts it has."""
    if checksum.startswith(CRC32):
        return _checksum(data) == checksum
    return blake2b(data, digest_size=16).hexdigest() == checksum
