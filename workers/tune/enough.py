"""When a median is known well enough: measuring stops then, or when its time is over. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from statistics import median

LEAST_RUNS = 3
SURE_RUNS = 20  # below that the spread itself is a guess
MOST_RUNS = 300
NEAR = 0.01  # of the median


def is_enough(times: Sequence[float], *, elapsed_s: float, budget_s: float) -> bool:
    """Whether the median of `times` needs no further run: its standard error is under 1 %, or the budget is spent."""
    if budget_s <= 0:
        return bool(times)
    if len(times) < LEAST_RUNS:
        return False
    if elapsed_s >= budget_s or len(times) >= MOST_RUNS:
        return True
    return len(times) >= SURE_RUNS and _error(times) <= NEAR * median(times)


def p99(times: Sequence[float]) -> float:
    """Of fewer than a hundred runs the slowest, as in the slots' own table."""
    return sorted(times)[ceil(0.99 * len(times)) - 1]


def _error(times: Sequence[float]) -> float:
    """Standard error of the median, from the quartiles: a few runs that something else disturbed do not count."""
    ordered = sorted(times)
    spread = ordered[len(ordered) * 3 // 4] - ordered[len(ordered) // 4]
    return 1.253 * spread / 1.349 / sqrt(len(ordered))
