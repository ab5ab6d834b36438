"""What one slot does in a second by T, the times that slots write down for each size of batch (broker/timetable.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from broker import timetable
from broker.connection import Link
from broker.roster import Assignment
from broker.timetable import Learned

KEPT_S = 30.0  # slots write T as seldom
MANIFEST = "manifest.json"


class Speeds:
    """Rows/s of models on devices of one host, asked for once in a while."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._known: dict[Assignment, tuple[float, float | None]] = {}  # until when, rows/s

    def rows_per_s(self, link: Link, given: Assignment, now: float) -> float | None:
        """None where nothing was learned yet. Raises one of connection.LOST."""
        until, rows_per_s = self._known.get(given, (0.0, None))
        if now >= until:
            rows_per_s = fastest(timetable.load(link, given.model, _digest(given), f"{self._host}/{given.device}"))
            self._known[given] = (now + KEPT_S if rows_per_s else now, rows_per_s)  # a first slot's words are awaited
        return rows_per_s


def fastest(learned: Sequence[Learned]) -> float | None:
    """Rows/s at the batch size that does most, of shapes in the middle: which shapes will come T does not tell."""
    best: dict[timetable.Dims, float] = {}
    for one in learned:
        if one.median_ms > 0:
            best[one.dims] = max(best.get(one.dims, 0.0), one.rows / one.median_ms * 1e3)
    return median(best.values()) if best else None


def _digest(given: Assignment) -> str:
    """As workers/artifact.py names a manifest; empty where it cannot be read, and then nothing is known."""
    try:
        return hashlib.sha256((Path(given.artifact) / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return ""
