"""What a run writes: parts that survive its death, and at the end one whole output under the final name. Knows no model.

Parts stand beside the output in `<url>.run-<run>/`. Nothing half-written ever has a final name: parts, notes and the output
are written under a temporary name, brought to the disk, and renamed.
"""

from __future__ import annotations

from pathlib import PurePosixPath

import pyarrow as pa

from broker.errors import RunError
from operators.runs.data.assembly import Assembly
from operators.runs.data.draft import Draft
from operators.runs.data.manifest import Manifest, PartNote
from operators.runs.data.parts import read_part, write_part
from operators.runs.data.shelf import Shelf

KINDS = ("parquet", "csv", "jsonl")
_OF_SUFFIX = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    "": "parquet",
}


class Sink:
    """Where one run writes. `kind`: one of KINDS; `is_folder`: the output is a folder of parts, for its url ends in `/`.

    A sink is for one process at a time: whoever holds the run's lease. Any method may raise RunError: no space, not
    writable, a store that does not answer. What was written before stays, and the call may be made again.
    """

    def __init__(self, shelf: Shelf, *, kind: str, run: str, replace: bool) -> None:
        self.url = shelf.url
        self.kind = kind
        self.is_folder = shelf.is_folder
        self.parts_url = shelf.parts_url
        self._shelf = shelf
        self._manifest = Manifest(shelf, run)
        self._draft = Draft(shelf, kind)
        self._assembly = Assembly(shelf, self._manifest, kind=kind, replace=replace)

    @property
    def is_assembled(self) -> bool:
        """Whether the output stands under its final name and was made by this run (also by a process that died just after)."""
        return self._manifest.is_assembled()

    @property
    def is_ours(self) -> bool:
        """Whether what stands under the final name may come from this run, which died while it put it there."""
        return self._manifest.is_begun()

    def finished(self) -> dict[int, PartNote]:
        """The parts that are whole, by number. What has no note, or another size than its note says, is thrown away."""
        return self._manifest.verified()

    def write(self, index: int, table: pa.Table, *, first_row: int) -> PartNote:
        """Writes part `index` and its note; on return both are on the disk. An existing part is replaced, as a retry wants."""
        is_final = self.is_folder and self.kind == "parquet"
        note, written = write_part(self._shelf, index, table, first_row, is_final=is_final)
        self._manifest.add(note)
        self._draft.add(note, written)
        return note

    def read(self, index: int) -> pa.Table:
        """A part as it was written. Raises RunError when it is not there or was altered."""
        return read_part(self._shelf, self._manifest.note(index))

    def assemble(self, *, rows: int | None = None, keep: bool = False) -> None:
        """Makes the output of all parts, in row order, under its final name; then removes the parts, but not the note that
        the output is this run's: `discard` does, when it is written down elsewhere that the run is done.

        `rows`: how many there must be in all. `keep`: leaves the parts, so that failed rows can be retried and the output
        be assembled again. Calling again after a crash goes on, or does nothing. Raises RunError when a part is missing or
        altered (it is then forgotten, and a resumed run makes it again), or when the output came to exist meanwhile.
        """
        if not self._manifest.is_cleared():
            self._assembly.run(self._draft, rows=rows)
        if not keep:
            self._manifest.clear()

    def close(self) -> None:
        """Nothing more is written in this turn. The parts stay."""
        self._draft.drop()

    def discard(self) -> None:
        """Removes the parts and all notes; an assembled output stays."""
        self._shelf.clear()


def open_sink(url: str, *, kind: str = "", run: str, replace: bool = False) -> Sink:
    """The sink of a run, writing nothing yet. `kind` is told by the url's extension unless given.

    Raises RunError when the output exists and was not made by this run (unless `replace`), when it could not be written
    there, or when its kind is unknown.
    """
    suffix = "" if url.endswith("/") else PurePosixPath(url).suffix.lower()
    kind = kind or _OF_SUFFIX.get(suffix, "")
    if kind not in KINDS:
        raise RunError(
            f"output {url} has no kind that a run writes; end it in .parquet, .csv or .jsonl, or say which kind"
        )
    shelf = Shelf(url, run)
    sink = Sink(shelf, kind=kind, run=run, replace=replace)
    shelf.check_writable()
    if shelf.is_there() and not replace and not sink.is_ours:
        raise RunError(
            f"output {url} exists already; remove it, choose another name, or submit with --if-exists overwrite"
        )
    return sink
