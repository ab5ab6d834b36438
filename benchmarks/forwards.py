"""The forwards that a sleeping model noted: when each began, how long it took, and whose rows were in it.

Rows that begin with `MARK` are counted apart from all others; a row that begins with 0 is padding, or the warm-up's. Times are
of the monotonic clock, which all processes of a host share. Reads notes; who writes them is `sleeper`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

MARK = 65_536.0


class Forward(msgspec.Struct, frozen=True):
    """One forward. `marked` and `others`: its rows, without padding."""

    began_at: float
    took_s: float
    marked: int
    others: int

    @property
    def ended_at(self) -> float:
        return self.began_at + self.took_s


def read(path: Path) -> list[Forward]:
    """All that ended so far, in order. A line that is being written is left out."""
    whole, _, _ = path.read_text().rpartition("\n")
    lines = (line.split() for line in whole.splitlines())
    return [Forward(float(began), float(took), int(marked), int(others)) for began, took, marked, others in lines]


def within(noted: Iterable[Forward], began_at: float, ended_at: float) -> list[Forward]:
    """Those that began and ended in that time."""
    return [one for one in noted if one.began_at >= began_at and one.ended_at <= ended_at]


def longest_gap_s(noted: Sequence[Forward], began_at: float, ended_at: float) -> float:
    """The longest time from the end of one to the begin of the next; the two ends of the time count as well."""
    begins = [*(one.began_at for one in noted), ended_at]
    ends = [began_at, *(one.ended_at for one in noted)]
    return max(begin - end for begin, end in zip(begins, ends, strict=True))
