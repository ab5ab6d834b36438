"""The schedules of pool.toml beside what Redis knows of them: when each is next due, and what became of its last time. Changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from croniter import croniter

from broker import schedules
from broker.connection import Link
from broker.settings import Settings


class Entry(msgspec.Struct, frozen=True):
    """One schedule. Times in seconds since 1970, 0 where there is none; `run` and `error`: what became of the time `due_s`.

    `is_watched`: a runs program holds its lease, so it will fire.
    """

    name: str
    cron: str
    model: str
    input: str
    output: str
    next_s: int
    due_s: int
    run: str
    error: str
    is_watched: bool


def calendar(settings: Settings, link: Link) -> list[Entry]:
    """By name, as pool.toml of this host has them."""
    if not settings.schedules:
        return []
    known = schedules.read(link)
    now = datetime.fromtimestamp(schedules.now_s(link), UTC)
    found = []
    for name, one in sorted(settings.schedules.items()):
        state = known.get(name, schedules.Known(0, 0, None))
        said = state.said if state.is_answered else None
        due: datetime = croniter(one.cron, now).get_next(datetime)
        found.append(
            Entry(
                name, one.cron, one.model, one.input, one.output, int(due.timestamp()), state.due_s,
                said.run if said else "", said.error if said else "", schedules.is_held(link, name),
            )
        )  # fmt: skip
    return found
