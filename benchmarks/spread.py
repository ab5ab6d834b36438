"""Medians with their spread, put under flat keys: `name`, `name_min`, `name_max`. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

Figures = dict[str, Any]


def of(name: str, values: Iterable[float], digits: int = 2) -> Figures:
    """One figure over the rounds. Raises ValueError without a value."""
    found = sorted(values)
    if not found:
        raise ValueError(f"{name} was measured in no round")
    return {
        name: rounded(median(found), digits),
        f"{name}_min": rounded(found[0], digits),
        f"{name}_max": rounded(found[-1], digits),
    }


def rounded(value: float, digits: int) -> float | int:
    """A whole number where no digit is asked for."""
    return round(value) if digits == 0 else round(value, digits)
