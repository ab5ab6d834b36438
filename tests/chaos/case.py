"""What a case is, what it saw, and the verdict: the same questions are put to every case.

Lost: accepted, never answered. Twice: ended more often in Redis' books than in ours. Then: are the books empty, do they agree
with ours for every final state, did every done job really run, has supervisord given anything up?
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.chaos.fake import executions
from tests.chaos.stage import Books, Stage
from tests.chaos.traffic import Tally


class Skipped(Exception):
    """Raised by a case this machine cannot play; the text says why."""


class Seen(msgspec.Struct):
    """What came of one case. `broken` are promises not kept, in words."""

    tried: int = 0
    faults: int = 0
    lost: int = 0
    twice: int = 0
    recovery_s: list[float] = []
    tally: Tally = msgspec.field(default_factory=Tally)
    notes: dict[str, Any] = {}
    broken: list[str] = []

    def expect(self, is_so: bool, text: str) -> None:
        """Notes a promise that was not kept."""
        if not is_so:
            self.broken = [*self.broken, text]

    def note(self, **values: Any) -> None:
        self.notes = {**self.notes, **values}

    def recovered(self, seconds: float) -> None:
        self.recovery_s = [*self.recovery_s, round(max(0.0, seconds), 3)]


@dataclass(frozen=True)
class Case:
    """`small`, `quick`, `full` are sizes in the case's own `unit`. One that may lose says under which conditions."""

    name: str
    play: Callable[[int], Seen]
    unit: str
    small: int
    quick: int
    full: int
    may_lose: str = ""
    tags: tuple[str, ...] = field(default=())


@contextlib.contextmanager
def judged(stage: Stage, seen: Seen, *, may_lose: bool = False) -> Iterator[Callable[[Tally], None]]:
    """Compares the books before and after the block. The block hands in what became of its jobs, once or more."""
    before = stage.books()
    ran_before = len(executions(stage.executions))
    tallies: list[Tally] = []
    yield tallies.append
    tally = sum(tallies, Tally())
    after = stage.wait_empty()
    _judge(seen, tally, before, after, may_lose=may_lose)
    seen.expect(not (given_up := stage.fatal()), f"supervisord gave up {given_up}")
    ran = executions(stage.executions)[ran_before:]
    if not may_lose:
        seen.expect(len(set(ran.tolist())) >= tally.done, f"{tally.done} done, only {len(set(ran.tolist()))} ran")
    seen.note(runs_more_than_once=len(ran) - len(set(ran.tolist())))


def _judge(seen: Seen, tally: Tally, before: Books, after: Books, *, may_lose: bool) -> None:
    ended = {state: count - before.ended[state] for state, count in after.ended.items()}
    seen.tally = seen.tally + tally
    seen.tried += tally.submitted
    seen.lost += tally.lost
    seen.twice += max(0, sum(ended.values()) - tally.ended - tally.lost)
    seen.expect(tally.wrong == 0, f"{tally.wrong} answers were another job's")
    seen.expect(after.is_empty, f"left in the queue: {after}")
    if may_lose:
        return
    seen.expect(tally.lost == 0, f"{tally.lost} jobs lost")
    accepted = after.submitted - before.submitted
    seen.expect(accepted == tally.submitted, f"Redis accepted {accepted} jobs, we know of {tally.submitted}")
    for state, count in ended.items():
        seen.expect(count == getattr(tally, state), f"Redis counts {count} {state}, we {getattr(tally, state)}")
    seen.expect(after.bytes == 0, f"{after.bytes} bytes are still accounted for")
