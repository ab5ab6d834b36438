"""Figures as they stand in Redis: text that anybody may have written. What is none is None, never a traceback, never a guess."""

from __future__ import annotations

from math import isfinite


def whole(text: str | bytes | None) -> int | None:
    """A count; `7.0` is 7."""
    number = real(text)
    if number is None:
        return None
    try:
        return int(text or "")  # beyond 2**53 a float would round it
    except ValueError:
        return int(number)


def real(text: str | bytes | None) -> float | None:
    """A finite number."""
    try:
        number = float(text) if text else None
    except ValueError:
        return None
    return number if number is not None and isfinite(number) else None


def wholes(row: dict[str, str]) -> dict[str, int]:
    """Of a hash of counts, those that are."""
    found = ((name, whole(text)) for name, text in row.items())
    return {name: count for name, count in found if count is not None}
