"""One line of a log as it is understood: when, how bad, what. Pure. Ours are JSON, Redis and supervisord have forms of their own.

Those two write local time, ours is UTC; here a time is always aware.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from broker.errors import ConfigError
from operators.table import clean

LOUD = ("warning", "error", "critical")  # told with the line
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# 30835:M 21 Nov 2026 23:17:51.230 * Calling fsync() on the AOF file.
_REDIS = re.compile(r"\d+:[A-Z] (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d:\d\d:\d\d\.\d{3}) ([.*#-]) (.*)")
_REDIS_LEVELS = {".": "debug", "-": "info", "*": "info", "#": "warning"}
# 2026-11-21 23:17:51,191 INFO stopped: slot_01 (exit status 0)
_SUPERVISORD = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) ([A-Z]{3,8}) (.*)")
_SUPERVISORD_LEVELS = {"CRIT": "critical", "ERRO": "error", "WARN": "warning", "INFO": "info", "DEBG": "debug"}
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)")
_AGO_S = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


class Line(msgspec.Struct, frozen=True):
    """One line. `at` is None only where no line before told one; a line without a time of its own has that of the one before."""

    program: str
    at: datetime | None
    level: str  # '' where none is told
    text: str  # the event of one of ours, else all behind time and level
    raw: str  # as it stands in the file
    fields: dict[str, Any] = {}


def parse(program: str, raw: bytes) -> Line:
    """Reads one line; of any other form it has neither time nor level."""
    text = raw.decode(errors="replace").rstrip("\r\n")
    try:
        if text.startswith("{") and (found := _ours(program, text)):
            return found
        if redis := _REDIS.fullmatch(text):
            day, month, year, clock, mark, said = redis.groups()
            at = datetime.fromisoformat(f"{year}-{MONTHS.index(month) + 1:02d}-{day} {clock}").astimezone()
            return Line(program, at, _REDIS_LEVELS[mark], said, text)
        if super_ := _SUPERVISORD.fullmatch(text):
            second, thousandth, level, said = super_.groups()
            at = datetime.fromisoformat(f"{second}.{thousandth}").astimezone()
            return Line(program, at, _SUPERVISORD_LEVELS.get(level, level.lower()), said, text)
    except (ValueError, OverflowError):  # no month, no day, no year that there is
        pass
    return Line(program, None, "", text, text)


def _ours(program: str, text: str) -> Line | None:
    try:
        found = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return None
    event, at, level = (found.pop(name, "") for name in ("event", "timestamp", "level"))
    if not isinstance(at, str) or not at:
        return None
    # Local first, as it is told: where a local clock has no such time, the line has none.
    return Line(program, datetime.fromisoformat(at).astimezone().astimezone(UTC), str(level), str(event), text, found)


def dated(program: str, raw: Iterable[bytes], at: datetime | None = None) -> Iterator[Line]:
    """Lines in their order; those without a time (of a traceback, say) take that of the line before, at first `at`."""
    for each in raw:
        line = parse(program, each)
        at = line.at or at
        yield line if line.at is not None else msgspec.structs.replace(line, at=at)


def merged(programs: Sequence[Sequence[Line]]) -> list[Line]:
    """Lines of several programs by time; each program's own keep their order."""
    found = []
    for lines in programs:
        latest = float("-inf")
        for line in lines:
            latest = max(latest, line.at.timestamp() if line.at else latest)  # a clock set back moves no line
            found.append((latest, line))
    return [line for _, line in sorted(found, key=lambda one: one[0])]


def since(text: str, now: datetime) -> datetime:
    """`90s`, `10m`, `2h`, `1d` before now; or a time, `07:30`, `2026-11-22`, `2026-11-22 07:30`, local unless it says. Raises ConfigError."""
    said = text.strip()
    try:
        if ago := _AGO.fullmatch(said):
            return now - timedelta(seconds=float(ago[1]) * _AGO_S[ago[2]])
        at = datetime.fromisoformat(
            f"{now:%Y-%m-%d} {said}" if re.fullmatch(r"\d\d?:\d\d(:\d\d)?", said.zfill(5)) else said
        )
        return at.astimezone()
    except (ValueError, OverflowError):
        raise ConfigError(f"--since {text!r} is no time; write 10m, 2h, 1d, 07:30 or 2026-11-22T07:30") from None


def told(line: Line) -> str:
    """A line as people read it, in local time, without what a terminal would obey."""
    at = f"{line.at.astimezone():%Y-%m-%d %H:%M:%S}.{line.at.microsecond // 1000:03d}" if line.at else "-"
    fields = " ".join(f"{name}={_value(value)}" for name, value in line.fields.items() if value not in ("", None))
    # A line without a time is part of what went before it: its indentation tells what of.
    text = line.text if line.level or line.fields else line.text.expandtabs()
    indent = len(text) - len(text.lstrip(" "))
    level = f"{line.level}: " if line.level in LOUD else ""
    return f"{at}  {level}{' ' * indent}{clean(text)}" + (f"  {clean(fields)}" if fields else "")


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return msgspec.json.encode(text).decode() if " " in text and isinstance(value, str) else text
