"""Which parts a sink has, and how far its output is: JSON files among the parts, each renewed atomically. Reads no part.

`head.json` says whose they are and whether the output was put together; `manifest-0000.json` holds the notes of parts 0 to
255, and so on: a note costs the same however many there are.
"""

from __future__ import annotations

import os

import msgspec

from broker.errors import RunError
from operators.runs.data.shelf import Shelf

_NOTES = 256  # in one file
HEAD, STAGED = "head.json", "assembled"
MANIFEST_PREFIX = "manifest-"


class PartNote(msgspec.Struct, frozen=True):
    """One part. Rows [first_row, first_row + rows) of the source; `failed` of them have an error; `checksum`: of its bytes."""

    index: int
    name: str
    first_row: int
    rows: int
    failed: int
    size: int
    checksum: str = msgspec.field(name="digest")


class Head(msgspec.Struct, frozen=True):
    """`size`: bytes of the output put together; -1 for a folder and until then."""

    run: str
    state: str = "writing"  # then "assembling", "assembled", "cleared"
    size: int = -1


class Manifest:
    """The notes, read when first needed and kept."""

    def __init__(self, shelf: Shelf, run: str) -> None:
        self._shelf = shelf
        self._run = run
        self._notes: dict[int, PartNote] | None = None

    def notes(self) -> dict[int, PartNote]:
        """By number, ascending."""
        if self._notes is None:
            found = (self._read(name) for name in self._shelf.names() if name.startswith(MANIFEST_PREFIX))
            self._notes = {note.index: note for notes in found for note in notes}
        return dict(sorted(self._notes.items()))

    def note(self, index: int) -> PartNote:
        try:
            return self.notes()[index]
        except KeyError:
            raise RunError(f"part {index} of {self._shelf.parts_url} was not written; resume the run") from None

    def add(self, note: PartNote) -> None:
        self.keep({**self.notes(), note.index: note}, note.index)

    def verified(self) -> dict[int, PartNote]:
        """The notes whose parts are there with their size; removes what is among the parts and belongs to none of them."""
        sizes, before = self._shelf.sizes(), self.notes()
        notes = {index: note for index, note in before.items() if sizes.get(note.name) == note.size}
        self.keep(notes, *(before.keys() - notes.keys()))
        known = {note.name for note in notes.values()} | {HEAD}
        for name in sizes.keys() - known:
            if not name.startswith(MANIFEST_PREFIX) or name.endswith(".tmp"):
                self._shelf.remove(name)
        return notes

    def keep(self, notes: dict[int, PartNote], *changed: int) -> None:
        """Makes `notes` all there are; only the files of the `changed` numbers are written."""
        self._notes = notes
        for number in sorted({index // _NOTES for index in changed}):
            held = [note for index, note in sorted(notes.items()) if index // _NOTES == number]
            self._shelf.put(f"{MANIFEST_PREFIX}{number:04d}.json", msgspec.json.encode(held))

    def head(self) -> Head:
        path = f"{self._shelf.parts}/{HEAD}"
        if self._shelf.size(path) < 0:
            return Head(self._run)
        try:
            return msgspec.json.decode(self._shelf.read(path), type=Head)
        except msgspec.DecodeError:
            return Head(self._run)

    def set_state(self, state: str, size: int = -1) -> None:
        self._shelf.put(HEAD, msgspec.json.encode(Head(self._run, state, size)))

    def is_begun(self) -> bool:
        """Whether what stands under the final name may be ours."""
        return self.head().state != "writing"

    def is_assembled(self) -> bool:
        """Whether it is, and whole: also where the process died before it could say so."""
        head = self.head()
        if head.state == "writing" or not self._shelf.is_there():
            return False
        if head.state in ("assembled", "cleared"):
            return head.size == (-1 if self._shelf.is_folder else self._shelf.size(self._shelf.final))
        if self._shelf.is_folder:  # died in between: there in one step, or not told yet by its last file
            return self._shelf.size(f"{self._shelf.final}/_manifest.json") >= 0
        return head.size == self._shelf.size(self._shelf.final) and self._was_renamed()

    def was_copied(self) -> bool:
        """Whether, in a store where a file is moved by copying it, the process died in between."""
        head = self.head()
        return (
            head.state == "assembling"
            and not (self._shelf.is_local or self._shelf.is_folder)
            and head.size == self._shelf.size(self._shelf.final)
        )

    def begin_again(self) -> None:
        """Of what was not finished, nothing counts: the staged file, by whose absence it is told, is about to go."""
        if not self._shelf.is_folder and self.head().state == "assembling" and not self.is_assembled():
            self.set_state("writing")

    def is_cleared(self) -> bool:
        """Whether it is assembled, and parts were being removed: they cannot make the output again."""
        return self.head().state == "cleared" and self.is_assembled()

    def clear(self) -> None:
        """Removes the parts of an output that is assembled, and their notes, but not the head."""
        self.set_state("cleared", self.head().size)
        self._notes = {}
        for name in self._shelf.names():
            if name != HEAD:
                self._shelf.remove(name)

    def _was_renamed(self) -> bool:
        staged = f"{self._shelf.parts}/{STAGED}"
        if self._shelf.size(staged) < 0:
            return True
        return self._shelf.is_local and os.path.samefile(staged, self._shelf.final)

    def _read(self, name: str) -> list[PartNote]:
        """Nothing where the file is garbled: its parts are then made again."""
        try:
            return msgspec.json.decode(self._shelf.read(f"{self._shelf.parts}/{name}"), type=list[PartNote])
        except msgspec.DecodeError:
            return []
