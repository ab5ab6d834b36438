"""Traces of jobs that were really sent to a real slot: the format of recorded/*.json, and what was seen then. Data, no clock.

A trace is kept by sender, since what a sender does next may hang on its answer. Of an open one the gaps between its jobs are
kept; of a closed one the time from each answer to its next job, so that in a replay it still waits for its answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from broker.timetable import Learned

FOLDER = Path(__file__).parent / "recorded"
MOST_BYTES = 200_000


class Seen(msgspec.Struct, frozen=True, order=True):
    """One job: when it lay in Redis, when its outcome was in its sender's hands, whether it was run. Ms of one clock."""

    at_ms: float
    answered_ms: float
    is_done: bool


class Sender(msgspec.Struct, frozen=True):
    """All jobs of one sender. `took_ms` is from Redis to the sender's hands; None: not run, its deadline had passed."""

    lane: int
    rows: int
    deadline_ms: float
    is_closed: bool
    gaps_ms: list[float]
    took_ms: list[float | None]


class Trace(msgspec.Struct, frozen=True):
    """One recording, and T of the slot it was made on as that slot left it in Redis."""

    name: str
    what: str
    machine: str
    cores: int
    date: str
    server: str
    times: list[Learned]
    senders: list[Sender]

    @property
    def table(self) -> dict[int, float]:
        """Padded rows -> median ms of a forward."""
        return {one.rows: one.median_ms for one in sorted(self.times, key=lambda one: one.rows)}

    @property
    def jobs(self) -> int:
        """How many were sent."""
        return sum(len(sender.gaps_ms) for sender in self.senders)


def stamped_ms(entry: str, before_ms: float, after_ms: float) -> float:
    """When a job lay in Redis: within the millisecond its entry id tells, as near as can be to the middle of its submit."""
    told_ms = float(entry.partition("-")[0])
    return min(max((before_ms + after_ms) / 2, told_ms), told_ms + 0.99)


def sender(seen: Iterable[Seen], began_ms: float, *, lane: int, is_closed: bool, deadline_ms: float = 0.0) -> Sender:
    """One sender's jobs of one row. A closed one's first gap, and all of an open one's, count from the job before, or `began_ms`."""
    gaps_ms, took_ms = [], []
    last_ms = began_ms
    for one in sorted(seen):
        gaps_ms.append(round(max(0.0, one.at_ms - last_ms), 2))
        took_ms.append(round(one.answered_ms - one.at_ms, 2) if one.is_done else None)
        last_ms = one.answered_ms if is_closed else one.at_ms
    return Sender(lane, 1, deadline_ms, is_closed, gaps_ms, took_ms)


def load(folder: Path = FOLDER) -> list[Trace]:
    """All there are, by name."""
    return [msgspec.json.decode(path.read_bytes(), type=Trace) for path in sorted(folder.glob("*.json"))]


def save(trace: Trace, folder: Path = FOLDER) -> Path:
    """Writes one. Raises ValueError for one that is too large for a repository."""
    data = msgspec.json.encode(trace)
    if len(data) > MOST_BYTES:
        raise ValueError(f"trace {trace.name} has {len(data)} bytes, {MOST_BYTES} may be kept: record fewer jobs")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{trace.name}.json"
    path.write_bytes(data + b"\n")
    return path


def only_dims(times: Sequence[Learned]) -> list[Learned]:
    """Those of one shape bucket, the one of which most sizes are known: all of a model whose rows are alike."""
    by_dims: dict[tuple[int, ...], list[Learned]] = {}
    for one in times:
        by_dims.setdefault(one.dims, []).append(one)
    dims = max(by_dims, key=lambda dims: len(by_dims[dims]))
    return sorted(by_dims[dims], key=lambda one: one.rows)
