"""Who is there: slots with their state, who is wanted where, why slots exited. The only source for status, CLI and metrics.

Commands travel through `wanted` and `assignment`; nothing here touches a payload.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from broker import keys
from broker.connection import Command, Link, ResponseError, evalsha
from broker.errors import DecodeError
from broker.figures import whole, wholes
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
        slot, reason, detail = (row.get(name, "") for name in ("slot", "reason", "detail"))
        found.append(Exit(slot, reason, detail, whole(row.get("jobs")) or 0, int(entry.partition(b"-")[0])))
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
        host, slot, kind, detail = (row.get(name, "") for name in ("host", "slot", "kind", "detail"))
        found.append(Event(at_ms, host, slot, kind, detail, whole(row.get("pid")) or 0))
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
    due_ms = ((name, whole(score)) for name, score in zip(names(flat[::2]), flat[1::2], strict=True))
    return {name: at_ms - FORGET_SLOT_MS for name, at_ms in due_ms if at_ms is not None}


def forget_slot(link: Link, name: str, model: str) -> None:
    """Takes a slot that has ended and serves nothing any more out of every list, at once."""
    lists = (keys.ready, keys.failing, keys.retiring, keys.due)
    commands: list[Command] = [("DEL", keys.slot(name)), ("ZREM", keys.slots(), name)]
    link.call_all([*commands, *(("ZREM", key(model), name) for key in lists)])


def restarts(link: Link) -> Counter[str]:
    """slot:reason -> count, since the pool's Redis began."""
    return Counter(wholes(strings(link.call("HGETALL", keys.restarts()))))


def slots(link: Link) -> dict[str, dict[str, str]]:
    """name -> state of every slot known; a slot that beats no more has an empty state."""
    return states(link, names(link.call("ZRANGE", keys.slots(), 0, -1)))


def states(link: Link, slots: Sequence[str]) -> dict[str, dict[str, str]]:
    """name -> state of these slots; empty for one that beats no more."""
    replies = _checked(link.call_all([("HGETALL", keys.slot(name)) for name in slots]))
    return {name: strings(reply) for name, reply in zip(slots, replies, strict=True)}


def now_ms(link: Link) -> int:
    """Redis' time."""
    return read_time(link.call("TIME"))


def read_time(reply: Sequence[bytes]) -> int:
    """Milliseconds, of a reply to TIME."""
    seconds, micros = reply
    return int(seconds) * 1000 + int(micros) // 1000


def ready(link: Link, model: str) -> list[str]:
    """Names of the slots of the model that are ready now."""
    return names(link.call("ZRANGEBYSCORE", keys.ready(model), f"({now_ms(link)}", "+inf"))


def ready_of(link: Link, models: Sequence[str], now_ms: int) -> dict[str, frozenset[str]]:
    """model -> names of its slots that are ready at Redis time `now_ms`, in one round trip."""
    commands = [("ZRANGEBYSCORE", keys.ready(model), f"({now_ms}", "+inf") for model in models]
    replies = _checked(link.call_all(commands))
    return {model: frozenset(names(found)) for model, found in zip(models, replies, strict=True)}


def models(link: Link) -> list[str]:
    """Names of all published models."""
    return sorted(names(link.call("SMEMBERS", keys.models())))


def assign(link: Link, host: str, number: int, assignment: Assignment | None) -> None:
    """Says what a slot serves; None takes it away."""
    if assignment is None:
        link.call("HDEL", keys.assignment(host), number)
    else:
        link.call("HSET", keys.assignment(host), number, msgspec.json.encode(assignment))


def assignments(link: Link, host: str) -> dict[int, Assignment]:
    """slot number -> assignment on this host. Raises DecodeError as `read_assignments` does."""
    return read_assignments(link.call("HGETALL", keys.assignment(host)))


def read_assignments(raw: Sequence[bytes]) -> dict[int, Assignment]:
    """Of a host's whole hash. Raises DecodeError for one that is garbled: a slot nobody knows the work of is not to be judged."""
    numbered = [(int(number), body) for number, body in zip(raw[::2], raw[1::2], strict=True) if number.isdigit()]
    return {number: _assignment(number, body) for number, body in sorted(numbered)}


def want(link: Link, host: str, model: str, count: int) -> None:
    """Says how many slots of the model this host shall run."""
    link.call("HSET", keys.wanted(model), host, count)


def wanted(link: Link, model: str) -> dict[str, int]:
    """host -> slots of the model wanted there."""
    return wholes(strings(link.call("HGETALL", keys.wanted(model))))


def depth_commands(model: str) -> list[Command]:
    """One model's queue, in replies: XLEN per lane (high, normal, low), delayed, dead, and the counters' flat hash."""
    commands: list[Command] = [("XLEN", keys.lane(model, lane)) for lane in LANES]
    return [*commands, ("ZCARD", keys.delayed(model)), ("XLEN", keys.dead(model)), ("HGETALL", keys.counters(model))]


def strings(flat: Sequence[bytes]) -> dict[str, str]:
    """A whole hash, as Redis gives it."""
    texts = names(flat)
    return dict(zip(texts[::2], texts[1::2], strict=True))


def names(replies: Sequence[bytes]) -> list[str]:
    """As text, whatever bytes they are."""
    return [one.decode(errors="replace") for one in replies]


def _assignment(number: int, body: bytes) -> Assignment:
    try:
        return msgspec.json.decode(body, type=Assignment)
    except ValueError as error:
        raise DecodeError(
            f"what slot {number} is assigned is garbled in Redis ({error}); `penstock down`, then `penstock up` writes it anew"
        ) from None


def _checked(replies: Sequence[Any]) -> Sequence[Any]:
    """Raises the first error among them."""
    if error := next((one for one in replies if isinstance(one, ResponseError)), None):
        raise error
    return replies
