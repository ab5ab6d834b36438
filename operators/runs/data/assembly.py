"""Parts into the output: one file in row order, or a folder of them. Nothing stands under the final name before it is whole.

A step that was done before a crash is done again or found done: nothing is kept in memory between them.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pyarrow as pa

from broker.errors import RunError
from operators.runs.data.draft import Draft, Grouped
from operators.runs.data.manifest import STAGED, Manifest, PartNote
from operators.runs.data.parts import read_part
from operators.runs.data.shelf import Shelf

MANIFEST = "_manifest.json"  # in an output that is a folder


class Assembly:
    """One output being put together. `replace`: over one that stands under its name."""

    def __init__(self, shelf: Shelf, manifest: Manifest, *, kind: str, replace: bool) -> None:
        self._shelf = shelf
        self._manifest = manifest
        self._kind = kind
        self._replace = replace

    def run(self, draft: Draft, *, rows: int | None) -> None:
        """Leaves the parts where they are, and makes the draft the output if it is whole."""
        notes = list(self._manifest.notes().values())
        check_whole(notes, rows)
        # A retry of failed rows puts together again what the same run made.
        replace = self._replace or self._manifest.is_assembled() or self._manifest.was_copied()
        self._manifest.begin_again()
        self._shelf.remove(STAGED)
        if self._shelf.is_folder:
            self._folder(notes, replace)
        else:
            self._file(notes, draft, replace)

    def _file(self, notes: list[PartNote], draft: Draft, replace: bool) -> None:
        if not draft.stage(notes):
            if self._kind == "parquet":
                self._shelf.check_room(sum(note.size for note in notes))
            self._write(STAGED, notes)
        size = self._shelf.size(f"{self._shelf.parts}/{STAGED}")
        self._manifest.set_state("assembling", size)
        self._shelf.finish(STAGED, replace=replace)
        self._manifest.set_state("assembled", size)

    def _folder(self, notes: list[PartNote], replace: bool) -> None:
        names = [
            note.name if self._kind == "parquet" else f"{note.name.partition('.')[0]}.{self._kind}" for note in notes
        ]
        to = f"{self._shelf.parts}/{STAGED}"
        if not self._shelf.is_local:
            to = self._shelf.final
            self._shelf.make_way(replace=replace or self._manifest.is_begun())
        self._manifest.set_state("assembling")
        for note, name in zip(notes, names, strict=True):
            if self._kind != "parquet":
                self._write(name, [note])
            self._shelf.copy(name, f"{to}/{name}")
            if self._kind != "parquet":
                self._shelf.remove(name)
        listed = [msgspec.structs.replace(note, name=name) for note, name in zip(notes, names, strict=True)]
        self._shelf.put(MANIFEST, msgspec.json.format(msgspec.json.encode(listed), indent=1))
        self._shelf.copy(MANIFEST, f"{to}/{MANIFEST}")
        if self._shelf.is_local:
            self._shelf.finish_folder(STAGED, replace=replace)
        self._manifest.set_state("assembled")

    def _write(self, name: str, notes: list[PartNote]) -> None:
        with self._shelf.written(name) as stream:
            writer = Grouped(self._kind, stream)
            for table in self._tables(notes):
                writer.write(table)
            writer.close()

    def _tables(self, notes: list[PartNote]) -> Iterator[pa.Table]:
        for note in notes:
            try:
                yield read_part(self._shelf, note)
            except RunError:
                kept = {index: other for index, other in self._manifest.notes().items() if index != note.index}
                self._manifest.keep(kept, note.index)  # so that a resumed run makes it again
                raise


def check_whole(notes: list[PartNote], rows: int | None) -> None:
    """Raises RunError unless the parts follow each other from row 0 on, to `rows`."""
    expected = 0
    for note in notes:
        if note.first_row != expected:
            raise RunError(
                f"the output has no rows {expected} to {note.first_row - 1} before part {note.index}; resume the run"
            )
        expected += note.rows
    if rows is not None and expected != rows:
        raise RunError(f"the output has {expected} rows, and the input {rows}; resume the run")
    if not notes:
        raise RunError("the output has no parts yet; resume the run")
