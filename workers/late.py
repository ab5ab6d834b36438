"""Jobs whose deadline passes while their lane is paused: ended a page a second by one slot's beat, since nobody claims them.

Pure: builds the commands and remembers how far it read. Which slot does it is decided in Redis (broker/scripts/expire.lua).
A queue of 100 000 jobs takes some minutes to be read; what the pages miss ends as it is claimed, after the resume.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from broker import paused
from broker.connection import Command

START = "-"


class Late:
    """Of one slot. One lane a turn, each in its turn."""

    def __init__(self) -> None:
        self._cursors: dict[int, str] = {}
        self._asked = -1

    def command(self, model: str, slot: str, lanes: Collection[int]) -> Command:
        """The next page of one of the paused `lanes`, of which there is at least one."""
        for lane in self._cursors.keys() - lanes:
            del self._cursors[lane]
        self._asked = min((lane for lane in lanes if lane > self._asked), default=min(lanes))
        return paused.expire(model, self._asked, slot, self._cursors.get(self._asked, START))

    def hear(self, reply: Any) -> int:
        """Takes the answer; how many jobs ended."""
        ended, cursor = reply
        self._cursors[self._asked] = cursor.decode()
        return int(ended)
