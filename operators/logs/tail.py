"""One log's end: its last lines, over the files it was moved to, then those that come, over the moves to come. Bytes, not words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from broker.errors import ConfigError
from operators.logs.files import Log

BLOCK = 1 << 16


class Tail:
    """Holds the log open: supervisord may move it at any time, and what was written before is read to its end first."""

    def __init__(self, log: Log, *, is_following: bool = False, is_new: bool = False) -> None:
        """`is_following` leaves a last line that is not at its end to `fresh`; `is_new` leaves it all.

        Raises ConfigError, as all that open a file here, for one that may not be read.
        """
        self.log = log
        self._file = _open(log.path)
        self._at = 0 if is_new else _size(self._file)  # read up to here by `fresh`, backwards from here by `backwards`
        if is_following and self._file is not None:
            self._at -= _unfinished(self._file, self._at)
        self._rest = b""  # of a line that is not written to its end

    def backwards(self) -> Iterator[bytes]:
        """All lines, the last first, through the files before. A line that is not at its end counts as one."""
        seen = set()
        if self._file is not None:
            seen.add(_identity(self._file))
            yield from _backwards(self._file, self._at)
        for path in self.log.rotated():
            file = _open(path)
            if file is None:
                continue
            with file:
                if _identity(file) not in seen:  # moved while we read
                    seen.add(_identity(file))
                    yield from _backwards(file, _size(file))

    def fresh(self) -> list[bytes]:
        """Whole lines that came since the last call, or since this was made."""
        if self._file is None:
            self._file, self._at = _open(self.log.path), 0
            return self._read() if self._file is not None else []
        is_moved = self._is_moved()  # asked first: behind a move nothing more is written to the old file
        lines = self._read()
        if is_moved:
            for path in self._newer():
                file = _open(path)
                if file is None:
                    continue
                self._file.close()
                self._file, self._at, self._rest = file, 0, b""
                lines += self._read()
        return lines

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _is_moved(self) -> bool:
        assert self._file is not None
        try:
            found = self.log.path.stat()
        except OSError:
            return False  # between two files
        return (found.st_dev, found.st_ino) != _identity(self._file)

    def _newer(self) -> list[Path]:
        """The files behind the one that was read, oldest first."""
        assert self._file is not None
        found = []
        for path in self.log.rotated():
            try:
                place = path.stat()
            except OSError:
                continue
            if (place.st_dev, place.st_ino) == _identity(self._file):
                break
            found.append(path)
        return [*reversed(found), self.log.path]

    def _read(self) -> list[bytes]:
        assert self._file is not None
        if _size(self._file) < self._at:  # emptied in place
            self._at, self._rest = 0, b""
        self._file.seek(self._at)
        raw = self._file.read()
        self._at += len(raw)
        *lines, self._rest = (self._rest + raw).split(b"\n")
        return lines


def _backwards(file: BinaryIO, end: int) -> Iterator[bytes]:
    rest: list[bytes] = []  # the pieces of a line whose beginning was not read yet, last first
    is_end = True
    while end > 0:
        start = max(0, end - BLOCK)
        file.seek(start)
        first, *lines = file.read(end - start).split(b"\n")
        end = start
        if not lines:
            rest.append(first)
            continue
        last = lines.pop()
        whole = last + b"".join(reversed(rest))
        if whole or not is_end:  # behind the newline at the end there is no line
            yield whole
        is_end = False
        yield from reversed(lines)
        rest = [first]
    if any(rest):
        yield b"".join(reversed(rest))


def _unfinished(file: BinaryIO, end: int) -> int:
    """Bytes behind the last newline; one that is a block away is taken for the end."""
    start = max(0, end - BLOCK)
    file.seek(start)
    raw = file.read(end - start)
    return len(raw) - raw.rfind(b"\n") - 1 if b"\n" in raw or start == 0 else 0


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None
    except PermissionError:
        raise ConfigError(
            f"{path} is for its owner to read; ask as the user that started the pool, or as root"
        ) from None


def _size(file: BinaryIO | None) -> int:
    return os.fstat(file.fileno()).st_size if file is not None else 0


def _identity(file: BinaryIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino
