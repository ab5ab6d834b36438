"""Whether five fields are a time of cron's: minute, hour, day, month, weekday. When it is next due, the runs program works out."""

from __future__ import annotations

import re

FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
NAMES = {
    "month": ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    "weekday": ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}
_PART = re.compile(r"(?:\*|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d+))?")


def complaint(cron: str) -> str:
    """What is wrong with it, with the mend; empty for a line that can be due."""
    texts = cron.split()
    if len(texts) != len(FIELDS):
        return "must be five fields: minute, hour, day, month, weekday"
    for text, (name, least, most) in zip(texts, FIELDS, strict=True):
        for part in text.split(","):
            found = _PART.fullmatch(part)
            bounds = [] if found is None else [_number(one, name) for one in found.group("first", "last") if one]
            if (
                found is None
                or not all(least <= one <= most for one in bounds)
                or bounds != sorted(bounds)
                or int(found["step"] or 1) < 1
            ):
                return (
                    f'has "{part}" as its {name}; write *, a number from {least} to {most}, a range 1-5 or a step */2'
                )
    return ""


def _number(text: str, field: str) -> int:
    """-1 for what is none, which lies outside every field."""
    names = NAMES.get(field, ())
    if text.lower() in names:
        return names.index(text.lower()) + (field == "month")
    return int(text) if text.isdecimal() and text.isascii() else -1
