"""The search for a job by its id alone: through the lanes page by page, going on where it stopped. Pure; `talks` does the talking."""

from __future__ import annotations

from collections.abc import Sequence

from broker.connection import Command
from broker.intake import Intake
from broker.messages import LANES

SEARCH_S = 3.0  # how long one look for a job searches before it says that it has not found it yet


class Search:
    """Where in each lane the search is. A job that waits can only be further back, so no page is read twice."""

    def __init__(self, job_id: str) -> None:
        self._job = job_id
        self._cursors = dict.fromkeys(range(1, len(LANES) + 1), "-")  # lane -> read up to here

    @property
    def is_over(self) -> bool:
        """Whether every lane was read to its end."""
        return not self._cursors

    def next(self, intake: Intake) -> list[Command]:
        """The next page of each lane not read to its end."""
        return [intake.find(self._job, lane, cursor) for lane, cursor in self._cursors.items()]

    def read(self, intake: Intake, replies: Sequence[Sequence[bytes]]) -> tuple[int, str]:
        """(lane, entry) where the job was found, else (0, '')."""
        for lane, reply in zip(list(self._cursors), replies, strict=True):
            entry, cursor = intake.read_find(reply)
            if entry:
                self._cursors.clear()
                return lane, entry
            if cursor:
                self._cursors[lane] = cursor
            else:
                del self._cursors[lane]
        return 0, ""
