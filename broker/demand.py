"""What is asked of some models at one moment: jobs that wait or are claimed, the oldest, how many ended, who is ready. Reads only,
in two round trips whatever their number; jobs of paused lanes are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from broker import keys, roster
from broker.connection import Command, Link, ResponseError, is_missing_group
from broker.figures import whole, wholes
from broker.messages import LANES

ENDS = ("done", "failed", "dead", "expired", "cancelled")


class Demand(msgspec.Struct, frozen=True):
    """Of one model over all hosts. `oldest_ms`: for how long the oldest of `jobs` has been in its lane, None without any."""

    jobs: int
    claimed: int
    oldest_ms: int | None
    ended: int
    wanted: Mapping[str, int]  # by host, of hosts whose agent lives
    ready: frozenset[str]  # names of slots
    failing: frozenset[str]
    paused: frozenset[str]  # lanes

    @property
    def is_paused(self) -> bool:
        return self.paused >= set(LANES)


def demands(link: Link, models: Sequence[str], now_ms: int) -> dict[str, Demand]:
    """model -> demand. `now_ms` is Redis' time, of a moment ago. Raises ResponseError, or one of connection.LOST."""
    if not models:
        return {}
    asked = [_of_model(model, now_ms) for model in models]
    replies = iter(_ask(link, [command for each in asked for command in each]))
    found = [[next(replies) for _ in each] for each in asked]
    hosts = sorted({host for each in found for host in roster.strings(each[7])})
    lanes = [
        keys.lane(model, lane)
        for model, each in zip(models, found, strict=True)
        for lane, depth, pending in zip(LANES, each[:3], each[3:6], strict=True)
        if depth and not _count(pending)
    ]
    # The time is asked for here once more: jobs that came since the caller asked would else be younger than nothing.
    time, *beside = _ask(link, [("TIME",), *(("EXISTS", keys.agent(host)) for host in hosts), *_heads(lanes)])
    now_ms = roster.read_time(time)
    alive = {host for host, is_there in zip(hosts, beside, strict=False) if is_there}
    heads = {lane: _ms(one[0][0]) for lane, one in zip(lanes, beside[len(hosts) :], strict=True) if one}
    return {model: _demand(model, each, heads, alive, now_ms) for model, each in zip(models, found, strict=True)}


def _of_model(model: str, now_ms: int) -> list[Command]:
    lanes = [keys.lane(model, lane) for lane in LANES]
    return [
        *(("XLEN", lane) for lane in lanes),
        *(("XPENDING", lane, keys.GROUP) for lane in lanes),
        ("HMGET", keys.counters(model), *ENDS),
        ("HGETALL", keys.wanted(model)),
        ("ZRANGEBYSCORE", keys.ready(model), f"({now_ms}", "+inf"),
        ("ZRANGEBYSCORE", keys.failing(model), f"({now_ms}", "+inf"),
        ("HKEYS", keys.paused(model)),
    ]


def _heads(lanes: Sequence[str]) -> list[Command]:
    """Of lanes where nothing is claimed: else the oldest is the first that is claimed, since a lane is claimed from its head."""
    return [("XRANGE", lane, "-", "+", "COUNT", 1) for lane in lanes]


def _demand(model: str, replies: Sequence[Any], heads: Mapping[str, int], alive: set[str], now_ms: int) -> Demand:
    ended, wanted, ready, failing, paused = replies[6:]
    off = frozenset(name.decode(errors="replace") for name in paused)
    lanes = [one for one in zip(LANES, replies[:3], replies[3:6], strict=True) if one[0] not in off]
    first = [_ms(pending[1]) for _, _, pending in lanes if _count(pending)]
    first += [heads[key] for lane, _, _ in lanes if (key := keys.lane(model, lane)) in heads]
    return Demand(
        jobs=sum(depth for _, depth, _ in lanes),
        claimed=sum(_count(pending) for _, _, pending in lanes),
        oldest_ms=max(0, now_ms - min(first)) if first else None,
        ended=sum(whole(count) or 0 for count in ended),
        wanted={host: count for host, count in wholes(roster.strings(wanted)).items() if host in alive},
        ready=frozenset(roster.names(ready)),
        failing=frozenset(roster.names(failing)),
        paused=off,
    )


def _ask(link: Link, commands: Sequence[Command]) -> list[Any]:
    """One round trip; a group nobody has made yet is no error, no slot ever claimed there."""
    replies = link.call_all(commands) if commands else []
    for reply in replies:
        if isinstance(reply, ResponseError) and not is_missing_group(reply):
            raise reply
    return replies


def _count(pending: Any) -> int:
    return int(pending[0]) if isinstance(pending, list) else 0


def _ms(entry: bytes) -> int:
    """An entry's id is the time it came, on Redis' clock."""
    return int(entry.partition(b"-")[0])
