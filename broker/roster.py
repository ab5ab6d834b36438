"""Who is there: slots with their state, who is wanted where, why slots exited. The only source for status, CLI and metrics.

Commands travel through `wanted` and `assignment`; nothing here touches a payload.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from broker import keys
from broker.connection import Command, Link, evalsha
from broker.messages import LANES

FORGET_SLOT_MS = 24 * 3_600_000  # a slot that beats no more leaves the list after a day


class Assignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one slot serves. `artifact` is the folder of the model's artifact on that host."""

    model: str
    artifact: str
    device: str = "cpu"


class Exit(msgspec.Struct, frozen=True):
    """One exit of a slot's incarnation: the named reason, its detail, and when (Redis ms)."""

    slot: str
    reason: str
    detail: str
    jobs: int
    at_ms: int


class Event(msgspec.Struct, frozen=True):
    """One thing the agent saw or did, at Redis' time. `pid` is 0 where none belongs to it."""

    at_ms: int
    host: str
    slot: str  # its name, or another program's of supervisord.conf
    kind: str
    detail: str
    pid: int


def slot_name(host: str, number: int) -> str:
    """`host/number`; consumer names add `.incarnation`."""
    return f"{host}/{number}"


def announce(name: str, state: dict[str, Any]) -> Command:
    """Writes a slot's state with its TTL; the reply is Redis' time in ms."""
    args: list[Any] = [name, keys.SLOT_TTL_MS, FORGET_SLOT_MS]
    for field, value in state.items():
        args += (field, value)
    return evalsha("announce", [keys.slot(name), keys.slots()], args)


def record_exit(link: Link, slot: str, reason: str, detail: str, jobs: int) -> None:
    """Counts an exit and keeps it for `status` and the log of exits."""
    link.call_all(
        [
            ("HINCRBY", keys.restarts(), f"{slot}:{reason}", 1),
            ("XADD", keys.exits(), "MAXLEN", "~", keys.EXITS_CAP, "*",
             "slot", slot, "reason", reason, "detail", detail[:500], "jobs", jobs),
        ]
    )  # fmt: skip


def exits(link: Link, count: int = 200) -> list[Exit]:
    """The newest exits, newest first."""
    return read_exits(link.call("XREVRANGE", keys.exits(), "+", "-", "COUNT", count))


def read_exits(reply: Sequence[Any]) -> list[Exit]:
    """Of an XREVRANGE over the exits."""
    found = []
    for entry, fields in reply:
        row = strings(fields)
        found.append(Exit(row["slot"], row["reason"], row["detail"], int(row["jobs"]), int(entry.partition(b"-")[0])))
    return found


def record_event(link: Link, host: str, slot: str, kind: str, *, detail: str = "", pid: int = 0) -> None:
    """Keeps one event of a host. Raises ResponseError when Redis is full."""
    link.call(
        "XADD", keys.events(), "MAXLEN", "~", keys.EVENTS_CAP, "*",
        "host", host, "slot", slot, "kind", kind, "detail", detail[:500], "pid", pid,
    )  # fmt: skip


def events(link: Link, count: int = 200) -> list[Event]:
    """The newest events of all hosts, newest first."""
    found = []
    for entry, fields in link.call("XREVRANGE", keys.events(), "+", "-", "COUNT", count):
        row = strings(fields)
        at_ms = int(entry.partition(b"-")[0])
        found.append(Event(at_ms, row["host"], row["slot"], row["kind"], row["detail"], int(row["pid"])))
    return found


def beat_agent(link: Link, host: str, state: dict[str, str | int]) -> int:
    """The agent's sign of life; Redis' time in ms."""
    args: list[Any] = [keys.AGENT_TTL_MS]
    for field, value in state.items():
        args += (field, value)
    return int(link.script("agent", [keys.agent(host)], args))


def agent(link: Link, host: str) -> dict[str, str]:
    """What the agent of a host last said of itself; empty when none lives."""
    return strings(link.call("HGETALL", keys.agent(host)))


def last_beats(link: Link) -> dict[str, int]:
    """Name of each slot known -> Redis time of its last announcement in ms; outlives the slot's own key."""
    return read_beats(link.call("ZRANGE", keys.slots(), 0, -1, "WITHSCORES"))


def read_beats(flat: Sequence[bytes]) -> dict[str, int]:
    """Of the whole zset of slots, with scores."""
    return {flat[at].decode(): int(float(flat[at + 1])) - FORGET_SLOT_MS for at in range(0, len(flat), 2)}


def forget_slot(link: Link, name: str, model: str) -> None:
    """Takes a slot that has ended and serves nothing any more out of every list, at once."""
    lists = (keys.ready, keys.failing, keys.retiring, keys.due)
    commands: list[Command] = [("DEL", keys.slot(name)), ("ZREM", keys.slots(), name)]
    link.call_all([*commands, *(("ZREM", key(model), name) for key in lists)])


def restarts(link: Link) -> Counter[str]:
    """slot:reason -> count, since the pool's Redis began."""
    row = strings(link.call("HGETALL", keys.restarts()))
    return Counter({field: int(count) for field, count in row.items()})


def slots(link: Link) -> dict[str, dict[str, str]]:
    """name -> state of every slot known; a slot that beats no more has an empty state."""
    return states(link, [name.decode() for name in link.call("ZRANGE", keys.slots(), 0, -1)])


def states(link: Link, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """name -> state of these slots; empty for one that beats no more."""
    replies = link.call_all([("HGETALL", keys.slot(name)) for name in names])
    return {name: strings(reply) for name, reply in zip(names, replies, strict=True)}


def now_ms(link: Link) -> int:
    """Redis' time."""
    return read_time(link.call("TIME"))


def read_time(reply: Sequence[bytes]) -> int:
    """Milliseconds, of a reply to TIME."""
    seconds, micros = reply
    return int(seconds) * 1000 + int(micros) // 1000


def ready(link: Link, model: str) -> list[str]:
    """Names of the slots of the model that are ready now."""
    return [name.decode() for name in link.call("ZRANGEBYSCORE", keys.ready(model), f"({now_ms(link)}", "+inf")]


def ready_of(link: Link, models: Sequence[str], now_ms: int) -> dict[str, frozenset[str]]:
    """model -> names of its slots that are ready at Redis time `now_ms`, in one round trip."""
    replies = link.call_all([("ZRANGEBYSCORE", keys.ready(model), f"({now_ms}", "+inf") for model in models])
    return {model: frozenset(map(bytes.decode, names)) for model, names in zip(models, replies, strict=True)}


def models(link: Link) -> list[str]:
    """Names of all published models."""
    return sorted(name.decode() for name in link.call("SMEMBERS", keys.models()))


def assign(link: Link, host: str, number: int, assignment: Assignment | None) -> None:
    """Says what a slot serves; None takes it away."""
    if assignment is None:
        link.call("HDEL", keys.assignment(host), number)
    else:
        link.call("HSET", keys.assignment(host), number, msgspec.json.encode(assignment))


def assignments(link: Link, host: str) -> dict[int, Assignment]:
    """slot number -> assignment on this host."""
    return read_assignments(link.call("HGETALL", keys.assignment(host)))


def read_assignments(raw: Sequence[bytes]) -> dict[int, Assignment]:
    """Of a host's whole hash."""
    pairs = zip(raw[::2], raw[1::2], strict=True)
    return {int(number): msgspec.json.decode(body, type=Assignment) for number, body in sorted(pairs)}


def want(link: Link, host: str, model: str, count: int) -> None:
    """Says how many slots of the model this host shall run."""
    link.call("HSET", keys.wanted(model), host, count)


def wanted(link: Link, model: str) -> dict[str, int]:
    """host -> slots of the model wanted there."""
    return {host: int(count) for host, count in strings(link.call("HGETALL", keys.wanted(model))).items()}


def depth_commands(model: str) -> list[Command]:
    """One model's queue, in replies: XLEN per lane (high, normal, low), delayed, dead, and the counters' flat hash."""
    commands: list[Command] = [("XLEN", keys.lane(model, lane)) for lane in LANES]
    return [*commands, ("ZCARD", keys.delayed(model)), ("XLEN", keys.dead(model)), ("HGETALL", keys.counters(model))]


def strings(flat: Sequence[bytes]) -> dict[str, str]:
    """A whole hash, as Redis gives it."""
    return {flat[at].decode(): flat[at + 1].decode() for at in range(0, len(flat), 2)}
