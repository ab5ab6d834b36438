"""One program alone with one run: takes its lease, notes what it did under it, leaves it. Whoever lost the lease writes nothing.

The other half of `runs`; only the programs that work runs use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from broker import keys
from broker.connection import Arg, Link
from broker.errors import LeaseLost
from broker.runs import RowError

_ERROR_BYTES = 500  # of one row's reason, in Redis


class Noted(NamedTuple):
    """What stands in Redis after a note: what the user asked for meanwhile, and the run's state."""

    asked: str
    state: str


class Kept(NamedTuple):
    """What a turn of a run leaves for the next one: words of the programs that work runs. `is_replacing`: its output may stand already.
    `is_assembled`: it does, and is whole."""

    plan: str
    round: str
    is_replacing: bool
    is_assembled: bool


def kept(link: Link, run: str) -> Kept:
    """As the turn before left it."""
    values = link.call("HMGET", keys.run(run), "plan", "round", "is_replacing", "is_assembled")
    plan, round, is_replacing, is_assembled = ((value or b"").decode() for value in values)
    return Kept(plan, round, bool(is_replacing), bool(is_assembled))


def take(link: Link, run: str, owner: str, *, is_tidying: bool = False, lease_ms: int = keys.RUN_LEASE_MS) -> int:
    """Makes `owner` the one who works the run; how often it was taken, 0 when it is another's or not to be worked.

    `is_tidying` takes one that was cancelled while nobody worked it, for what it left behind.
    """
    args: list[Arg] = [owner, lease_ms, int(is_tidying)]
    verdict, detail = link.script("run_take", [keys.run(run), *_held(run)], args)
    return int(detail) if verdict == b"taken" else 0


def note(
    link: Link,
    run: str,
    owner: str,
    fields: Mapping[str, str | int | float] = {},
    *,
    failed: Sequence[RowError] = (),
    leave: str = "",
    keep_ms: int = 0,
    is_progress: bool = False,
    forgets_errors: bool = False,
    lease_ms: int = keys.RUN_LEASE_MS,
) -> Noted:
    """Writes fields ("" takes one away) and failed rows, and renews the lease; with `leave`, gives the run up in that state.

    Rows noted before are not noted twice. Raises LeaseLost, and has written nothing then.
    """
    args: list[Arg] = [
        owner, lease_ms, leave, keep_ms, keys.RUN_ERRORS_CAP, int(forgets_errors), int(is_progress), len(fields),
    ]  # fmt: skip
    for name, value in fields.items():
        args += (name, value)
    for one in failed:
        args += (one.row, msgspec.json.encode(one.keys), one.error[:_ERROR_BYTES])
    reply: list[Any] = link.script("run_note", [keys.run(run), *_held(run)], args)
    if not reply[0]:
        raise LeaseLost(f"run {run} is worked by another program now; this one lets go of it")
    return Noted(reply[1].decode(), reply[2].decode())


def is_held(link: Link, runs: Sequence[str]) -> list[bool]:
    """Whether somebody works each of these runs, in one round trip."""
    return [bool(reply) for reply in link.call_all([("EXISTS", keys.run(run, "_lease")) for run in runs])]


def prune(link: Link) -> int:
    """Takes runs that are past their time out of the list; how many."""
    return int(link.script("run_prune", [keys.runs()], [keys.run("")]))


def beat(link: Link, host: str, name: str, *, pid: int, run: str) -> None:
    """A program's sign of life, and the run it works."""
    said = msgspec.json.encode({"pid": pid, "run": run})
    link.script("run_beat", [keys.runs_beat(host), keys.runs_beat("")], [keys.AGENT_TTL_MS, host, name, said])


def _held(run: str) -> list[str]:
    return [keys.run(run, "_lease"), keys.run(run, "_errors")]
