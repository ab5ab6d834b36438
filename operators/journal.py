"""How programs ended, from supervisord's own log: over XML-RPC an exit code is gone once the program runs again.

Follows the file over its rotation, from its last part on. Keeps the newest ends only.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from workers.exits import Exit

LOOK_BACK_BYTES = 64 << 10
KEPT = 500
_SPAWNED = re.compile(r"spawned: '([^']+)' with pid (\d+)$")
_ENDED = re.compile(r"(?:exited|stopped): (\S+) \((?:exit status (\d+)|terminated by (\w+))")
_NAMES = {int(code): code.reason for code in Exit}


class Journal:
    """pid -> how it ended, as `exit 64 max_jobs` or `SIGKILL`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = -1
        self._offset = 0
        self._rest = b""
        self._pids: dict[str, int] = {}
        self._ends: dict[int, str] = {}

    def end_of(self, pid: int) -> str:
        """How the process ended; empty when the log does not say."""
        self._follow()
        return self._ends.get(pid, "")

    def feed(self, line: str) -> None:
        """One line of the log."""
        if found := _SPAWNED.search(line):
            self._pids[found[1]] = int(found[2])
        elif (found := _ENDED.search(line)) and found[1] in self._pids:
            self._ends[self._pids.pop(found[1])] = _how(found[2], found[3])
            while len(self._ends) > KEPT:
                del self._ends[next(iter(self._ends))]

    def _follow(self) -> None:
        try:
            with open(self._path, "rb") as log:
                state = os.fstat(log.fileno())
                if state.st_ino != self._inode or state.st_size < self._offset:
                    is_first = self._inode == -1
                    self._inode, self._rest = state.st_ino, b""
                    self._offset = max(0, state.st_size - LOOK_BACK_BYTES) if is_first else 0
                log.seek(self._offset)
                text = log.read()
        except OSError:
            return  # an end without its code is better than none
        self._offset += len(text)
        *lines, self._rest = (self._rest + text).split(b"\n")
        for line in lines:
            self.feed(line.decode(errors="replace"))


def _how(code: str | None, name: str | None) -> str:
    if code is None:
        return name or ""
    return f"exit {code} {_NAMES.get(int(code), 'unknown')}"
