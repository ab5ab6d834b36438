"""Several logs read as one: their last lines by time, then what comes, with the logs of programs that come too."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path

from broker.errors import ConfigError
from operators.logs import files, lines
from operators.logs.lines import Line
from operators.logs.tail import Tail

LOOK_S = 1.0  # between two looks for logs that are new


class Follower:
    """The logs of a program, or of all, in one folder."""

    def __init__(self, folder: Path, program: str, *, is_following: bool = False) -> None:
        """Raises ConfigError when there is none."""
        self._folder, self._program, self._is_following = folder, program, is_following
        there = files.chosen(folder, program)
        self._tails = {log.program: Tail(log, is_following=is_following) for log in there}
        self._latest: dict[str, datetime | None] = {}  # by program: the time of its last line
        self._looked_at = time.monotonic()
        self.width = max(map(len, self._tails)) if len(self._tails) > 1 or program in ("", *files.MANY) else 0

    def last(self, count: int | None, since: datetime | None = None) -> list[Line]:
        """The last `count` lines over all of them, None for any number, from `since` on."""
        each = []
        for name, tail in self._tails.items():
            raw = []
            for one in islice(tail.backwards(), count):
                if since is not None and (at := lines.parse(name, one).at) is not None and at < since:
                    break
                raw.append(one)
            each.append(self._dated(name, raw[::-1]))
        found = lines.merged(each)
        return found if count is None else found[max(0, len(found) - count) :]

    def fresh(self) -> list[Line]:
        """What came since the last call."""
        if time.monotonic() - self._looked_at >= LOOK_S:
            self._looked_at = time.monotonic()
            with suppress(ConfigError):  # all have gone
                for log in files.chosen(self._folder, self._program):
                    if log.program not in self._tails:
                        self._tails[log.program] = Tail(log, is_new=True)
        return lines.merged([self._dated(name, tail.fresh()) for name, tail in self._tails.items()])

    def close(self) -> None:
        for tail in self._tails.values():
            tail.close()

    def _dated(self, name: str, raw: list[bytes]) -> list[Line]:
        found = list(lines.dated(name, raw, self._latest.get(name)))
        if found:
            self._latest[name] = found[-1].at
        return found
