"""What is known of [schedules.NAME] in Redis: up to when each has fired, and what became of the last time. No times are worked out here.

One hash: `seen NAME`, when the schedule was first seen, and `due NAME`, the time it last fired, are written by the scheduler, in
seconds since 1970; `said NAME` by the task that submitted the run, or could not.
"""

from __future__ import annotations

from typing import Any

import msgspec

from broker import keys
from broker.connection import Link

ID = "cron"  # what the schedules' hash and leases are called among the runs


class Said(msgspec.Struct, frozen=True):
    """What became of the time `due_s` (of the day it was due, in seconds since 1970, UTC): a run, or an error."""

    due_s: int
    run: str = ""
    error: str = ""


def hold(link: Link, name: str, owner: str) -> bool:
    """Takes the lease of one schedule, or renews it; whether it is this scheduler's now.

    In plain commands: between them another may come to hold it too, and a due time is taken once all the same, by its job's id.
    """
    lease = keys.run(f"{ID}:{name}", "_lease")
    if link.call("SET", lease, owner, "NX", "PX", keys.RUN_LEASE_MS):
        return True
    if link.call("GET", lease) != owner.encode():
        return False
    link.call("PEXPIRE", lease, keys.RUN_LEASE_MS)
    return True


def is_held(link: Link, name: str) -> bool:
    """Whether any scheduler watches it."""
    return bool(link.call("EXISTS", keys.run(f"{ID}:{name}", "_lease")))


def leave(link: Link, name: str, owner: str) -> None:
    """Gives the lease back, so that the next scheduler need not wait for its end."""
    lease = keys.run(f"{ID}:{name}", "_lease")
    if link.call("GET", lease) == owner.encode():
        link.call("PEXPIRE", lease, 1)


class Known(msgspec.Struct, frozen=True):
    """One schedule as Redis knows it: `due_s` is 0 before it first fired, `said` None before it was first answered."""

    seen_s: int
    due_s: int
    said: Said | None

    @property
    def is_answered(self) -> bool:
        """Whether something became of the last time it fired."""
        return not self.due_s or (self.said is not None and self.said.due_s >= self.due_s)


def see(link: Link, name: str, now_s: int) -> None:
    link.call("HSET", keys.run(ID), f"seen {name}", now_s)


def fired(link: Link, name: str, due_s: int) -> None:
    link.call("HSET", keys.run(ID), f"due {name}", due_s)


def say(link: Link, name: str, said: Said) -> None:
    link.call("HSET", keys.run(ID), f"said {name}", msgspec.json.encode(said))


def read(link: Link) -> dict[str, Known]:
    """What is known, by the schedule's name."""
    flat: list[Any] = link.call("HGETALL", keys.run(ID))
    there = dict(zip((key.decode(errors="replace") for key in flat[::2]), flat[1::2], strict=True))
    return {name: _known(name, there) for kind, _, name in (key.partition(" ") for key in there) if kind == "seen"}


def now_s(link: Link) -> float:
    """The pool's time, in seconds since 1970."""
    seconds, micros = link.call("TIME")
    return int(seconds) + int(micros) / 1e6


def _known(name: str, there: dict[str, bytes]) -> Known:
    """What cannot be read is as if it were not there: the next time writes it anew."""
    try:
        said = msgspec.json.decode(there[f"said {name}"], type=Said)
    except (KeyError, msgspec.DecodeError):
        said = None
    return Known(_number(there.get(f"seen {name}", b"")), _number(there.get(f"due {name}", b"")), said)


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() else 0
