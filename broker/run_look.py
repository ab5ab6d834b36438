"""Open bulk runs and the programs that work them, for whoever judges a pool: few fields of a bounded number of runs.

Commands and the reading of their replies only; `look` sends them along in its own round trips. What a run is in full is `runs.view`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from broker import keys, run_beats
from broker.connection import Command, ResponseError
from broker.figures import whole
from broker.run_beats import Beat

# Of those remembered. Runs that ended are forgotten in time, so one that never ends sinks to the oldest.
OLDEST, NEWEST = 50, 150
OPEN = ("queued", "running")
FIELDS = ("state", "request", "doing", "created_ms", "started_ms", "progressed_ms")
GONE = -2  # of PTTL: no such key
_ID = re.compile(r"[\w-]{1,64}", re.ASCII)  # whoever may submit runs may write any there


class OpenRun(msgspec.Struct, frozen=True):
    """A run that is to be worked. `host`: whose programs alone may, "" all. `is_held`: a program works it now.

    `quiet_s`: since it was submitted, was begun or had a row done, whichever was last. `rate`: its own limit, rows/s, 0 none.
    """

    id: str
    state: str
    host: str
    rate: float
    doing: str
    is_held: bool
    quiet_s: float


class Runs(msgspec.Struct, frozen=True):
    """Of all hosts."""

    open: tuple[OpenRun, ...] = ()
    beats: tuple[Beat, ...] = ()


class _Asked(msgspec.Struct, frozen=True):
    host: str = ""
    rate: float = 0.0


def list_commands() -> list[Command]:
    """Which runs and which hosts there are; the replies are for `ids` and `hosts`."""
    return [
        ("ZRANGE", keys.runs(), 0, OLDEST - 1), ("ZRANGE", keys.runs(), -NEWEST, -1), ("ZRANGE", keys.runs_beat(""), 0, -1)
    ]  # fmt: skip


def ids(oldest: Any, newest: Any) -> list[str]:
    """Each once."""
    found = (name.decode(errors="replace") for reply in (oldest, newest) for name in _listed(reply))
    return [name for name in dict.fromkeys(found) if _ID.fullmatch(name)]


def hosts(reply: Any) -> list[str]:
    return [name.decode(errors="replace") for name in _listed(reply)]


def state_commands(runs: Sequence[str], hosts: Sequence[str]) -> list[Command]:
    """The state of each run, and the programs of each host."""
    return [*(("HGET", keys.run(run), "state") for run in runs), *(("HGETALL", keys.runs_beat(host)) for host in hosts)]


def opened(runs: Sequence[str], states: Sequence[Any]) -> list[str]:
    """Those that are to be worked."""
    wanted = {state.encode() for state in OPEN}
    return [run for run, state in zip(runs, states, strict=True) if isinstance(state, bytes) and state in wanted]


def open_commands(runs: Sequence[str]) -> list[Command]:
    """What is to be known of each, two commands a run. PTTL tells of a lease: whoever only looks may ask nothing else of it."""
    return [
        command for run in runs for command in (("HMGET", keys.run(run), *FIELDS), ("PTTL", keys.run(run, "_lease")))
    ]  # fmt: skip


def read(runs: Sequence[str], replies: Sequence[Any], hosts: Sequence[str], beats: Sequence[Any], now_ms: int) -> Runs:
    """Of the replies to `open_commands` and to the programs' part of `state_commands`. What is no run is passed over."""
    found = (_open(run, replies[2 * at], replies[2 * at + 1], now_ms) for at, run in enumerate(runs))
    return Runs(tuple(one for one in found if one is not None), tuple(run_beats.read(hosts, beats, now_ms)))


def _open(run: str, values: Any, lease_ms: Any, now_ms: int) -> OpenRun | None:
    if isinstance(values, ResponseError) or not isinstance(lease_ms, int):
        return None
    row = dict(zip(FIELDS, [(value or b"").decode(errors="replace") for value in values], strict=True))
    if row["state"] not in OPEN:  # it has ended since
        return None
    try:
        asked = msgspec.json.decode(row["request"], type=_Asked)
    except (msgspec.MsgspecError, RecursionError):
        return None
    since_ms = max(whole(row[name]) or 0 for name in FIELDS[3:])
    quiet_s = max(0, now_ms - since_ms) / 1000
    return OpenRun(run, row["state"], asked.host, asked.rate, row["doing"], lease_ms != GONE, quiet_s)


def _listed(reply: Any) -> list[bytes]:
    return reply if isinstance(reply, list) else []
