"""Everything Redis knows of a pool, in two round trips whatever the number of slots and models. Reads only, runs no script.

A third asks for the heads of lanes whose oldest job no slot holds: its body comes along, so it is not asked for otherwise; and
for what is to be known of bulk runs that are open.
What is read is judged in `operators.status`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from broker import keys, overlap, roster, run_look, spec
from broker import paused as pauses
from broker.connection import Command, Link, ResponseError, is_missing_group
from broker.errors import DecodeError
from broker.figures import wholes
from broker.messages import LANES
from broker.overlap import Request
from broker.paused import Pause
from broker.roster import Assignment, Exit
from broker.run_look import Runs
from broker.spec import Published

EXITS = 200  # the newest, which tell why a slot went last


class ModelLook(msgspec.Struct, frozen=True):
    """One model's queue. `first_ms` is when its oldest job not ended came to its lane, None without any."""

    name: str
    depth: dict[str, int]  # of each lane, claimed jobs among them
    delayed: int
    claimed: int
    dead: int
    first_ms: int | None
    counters: dict[str, int]
    wanted: dict[str, int]  # by host
    ready: frozenset[str]  # names of slots
    published: Published | None
    trouble: str  # why what was published cannot be read; '' where it can, or was not published
    paused: dict[str, Pause]  # by lane


class Look(msgspec.Struct, frozen=True):
    """The pool at Redis' time `now_ms`; assignments, requests and the agent are those of one host."""

    now_ms: int
    info: dict[str, str]
    models: tuple[ModelLook, ...]
    assignments: dict[int, Assignment]
    trouble: str  # why the assignments cannot be read, then there are none; '' where they can
    requests: dict[int, Request]
    agent: dict[str, str]
    states: dict[str, dict[str, str]]  # by the slot's name; empty for one that beats no more
    beats: dict[str, int]
    exits: list[Exit]
    restarts: dict[str, int]  # slot:reason -> count
    runs: Runs = Runs()


def look(link: Link, host: str, models: Iterable[str] = ()) -> Look:
    """Looks once. `models` are read though nobody published them. Raises ResponseError or one of LOST."""
    of_runs = run_look.list_commands()
    info, time, published, given, requests, agent, beats, exits, restarts, oldest, newest, run_hosts = _ask(
        link,
        [
            ("INFO",), ("TIME",), ("SMEMBERS", keys.models()), ("HGETALL", keys.assignment(host)),
            ("HGETALL", keys.overlap(host)), ("HGETALL", keys.agent(host)), ("ZRANGE", keys.slots(), 0, -1, "WITHSCORES"),
            ("XREVRANGE", keys.exits(), "+", "-", "COUNT", EXITS), ("HGETALL", keys.restarts()), *of_runs,
        ],
        foreign=len(of_runs),
    )  # fmt: skip
    now_ms = roster.read_time(time)
    last = roster.read_beats(beats)
    names = sorted({*roster.names(published), *models})
    asked = [_of_model(name, now_ms) for name in names]
    runs, hosts = run_look.ids(oldest, newest), run_look.hosts(run_hosts)
    of_runs = run_look.state_commands(runs, hosts)
    replies = iter(
        _ask(
            link,
            [*(one for each in asked for one in each), *(("HGETALL", keys.slot(name)) for name in last), *of_runs],
            foreign=len(of_runs),
        )
    )
    found = [[next(replies) for _ in each] for each in asked]
    states = {name: roster.strings(next(replies)) for name in last}
    runs = run_look.opened(runs, [next(replies) for _ in runs])
    lanes, of_runs = _unclaimed(names, found), run_look.open_commands(runs)
    third = [*(("XRANGE", lane, "-", "+", "COUNT", 1) for lane in lanes), *of_runs]
    entries = _ask(link, third, foreign=len(of_runs)) if third else []
    heads = {lane: _ms(first[0][0]) for lane, first in zip(lanes, entries, strict=False) if first}
    assignments, trouble = _assignments(given)
    return Look(
        now_ms=now_ms,
        info=read_info(info),
        models=tuple(_model(name, each, heads) for name, each in zip(names, found, strict=True)),
        assignments=assignments,
        trouble=trouble,
        requests=overlap.read(requests),
        agent=roster.strings(agent),
        states=states,
        beats=last,
        exits=roster.read_exits(exits),
        restarts=wholes(roster.strings(restarts)),
        runs=run_look.read(runs, entries[len(lanes) :], hosts, list(replies), now_ms),
    )


def read_info(reply: bytes) -> dict[str, str]:
    """INFO as a flat dict of strings."""
    lines = reply.decode(errors="replace").splitlines()
    return {name: value for name, mark, value in (line.partition(":") for line in lines) if mark}


def _ask(link: Link, commands: Sequence[Command], *, foreign: int = 0) -> list[Any]:
    """One round trip. Raises the first error that is not a group nobody has made yet: no slot ever claimed there.

    The last `foreign` commands are about keys that others than the pool may write: their errors are among the replies.
    """
    replies = link.call_all(commands)
    for reply in replies[: len(replies) - foreign]:
        if isinstance(reply, ResponseError) and not is_missing_group(reply):
            raise reply
    return replies


def _of_model(name: str, now_ms: int) -> list[Command]:
    return [
        *roster.depth_commands(name),
        *(("XPENDING", keys.lane(name, lane), keys.GROUP) for lane in LANES),
        ("HGETALL", keys.wanted(name)),
        ("HMGET", keys.spec(name), *spec.FIELDS),
        ("ZRANGEBYSCORE", keys.ready(name), f"({now_ms}", "+inf"),
        pauses.look(name),
    ]


def _unclaimed(names: Sequence[str], found: Sequence[Sequence[Any]]) -> list[str]:
    """Keys of lanes where jobs wait and none is claimed: their heads are the oldest.

    Else the oldest is the first that is claimed: a lane is claimed from its head, and what ended is deleted.
    """
    return [
        keys.lane(name, lane)
        for name, each in zip(names, found, strict=True)
        for lane, count, pending in zip(LANES, each, each[6:9], strict=False)
        if count and not _count(pending)
    ]


def _model(name: str, replies: Sequence[Any], heads: Mapping[str, int]) -> ModelLook:
    *waiting, delayed, dead, counters, high, normal, low, wanted, published, ready, paused = replies
    pending = (high, normal, low)
    first = [_ms(one[1]) for one in pending if _count(one)]
    first += [heads[lane] for lane in (keys.lane(name, lane) for lane in LANES) if lane in heads]
    known, trouble = None, ""
    try:
        known = spec.read(name, published) if published[0] is not None else None
    except DecodeError as error:  # one model's must not hide all the others
        trouble = str(error)
    return ModelLook(
        name=name,
        depth=dict(zip(LANES, waiting, strict=True)),
        delayed=delayed,
        claimed=sum(map(_count, pending)),
        dead=dead,
        first_ms=min(first) if first else None,
        counters=wholes(roster.strings(counters)),
        wanted=wholes(roster.strings(wanted)),
        ready=frozenset(roster.names(ready)),
        published=known,
        trouble=trouble,
        paused=pauses.read(paused),
    )


def _assignments(given: Sequence[bytes]) -> tuple[dict[int, Assignment], str]:
    try:
        return roster.read_assignments(given), ""
    except DecodeError as error:
        return {}, str(error)


def _count(pending: Any) -> int:
    return int(pending[0]) if isinstance(pending, list) else 0


def _ms(entry: bytes) -> int:
    """An entry's id is the time it came, on Redis' clock."""
    return int(entry.partition(b"-")[0])
