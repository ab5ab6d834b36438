"""Which settings the pool is judged by: those the running pool was given, not what stands in pool.toml; and how the file differs."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from broker.errors import ConfigError
from broker.settings import Settings
from operators import applied
from operators.desk import unapplied
from operators.snapshot import Problem

Stamp: TypeAlias = tuple[int, int, int]


class Governing:
    """Looked at again and again; files are read anew only when one of them changed. `asked`: the settings a command began with."""

    def __init__(self, asked: Settings) -> None:
        self._asked = asked
        self._stamps: tuple[Stamp | None, ...] = ()
        self._found: tuple[Settings, tuple[Problem, ...]] = asked, ()

    def look(self) -> tuple[Settings, tuple[Problem, ...]]:
        """Of a pool that is up: what is in force, and what is to be said of pool.toml. Never raises."""
        files = [*applied.copies(self._asked), *([Path(self._asked.path)] if self._asked.path else [])]
        stamps = tuple(map(_stamp, files))
        if stamps != self._stamps:
            self._stamps, self._found = stamps, self._read()
        return self._found

    def _read(self) -> tuple[Settings, tuple[Problem, ...]]:
        try:
            found = applied.in_force(self._asked)
            return found, tuple(unapplied.troubles(self._asked))
        except ConfigError as error:  # the copy cannot be read: the next slot that starts cannot read it either
            text = " ".join(str(error).split())
            return self._asked, (Problem("error", text, "`penstock down`, then `penstock up` makes it anew"),)


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
