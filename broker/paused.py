"""Which lanes of a model nobody may claim from: who paused them, why and when. Operators write it, slots and producers read it.

Not here: what a slot does about it (workers/claims, claimer), and the audit of who did what (audit).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from broker import keys
from broker.connection import Command, Link, evalsha
from broker.messages import LANES
from broker.queue import INLINE_LIMIT_BYTES

EXPIRE_ENTRIES, EXPIRE_BYTES = 500, 1 << 20  # what one page may read while Redis serves nobody else


class Pause(msgspec.Struct, frozen=True):
    """Of one lane. `by` is login and machine, `at_ms` Redis' time."""

    by: str
    reason: str
    at_ms: int


def pause(link: Link, model: str, lanes: Sequence[str], told: Pause) -> list[str]:
    """Pauses these lanes; which of them were not before. One that is paused stays under its first name."""
    text = msgspec.json.encode(told)
    replies = link.call_all([("HSETNX", keys.paused(model), lane, text) for lane in lanes])
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return [lane for lane, is_new in zip(lanes, replies, strict=True) if is_new]


def resume(link: Link, model: str, lanes: Sequence[str]) -> list[str]:
    """Takes the pause of these lanes away; which of them were paused. Frees, so it passes at maxmemory."""
    replies = link.call_all([("HDEL", keys.paused(model), lane) for lane in lanes])
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return [lane for lane, was_there in zip(lanes, replies, strict=True) if was_there]


def look(model: str) -> Command:
    """Asks for all pauses of a model; for `read`."""
    return ("HGETALL", keys.paused(model))


def read(flat: Sequence[bytes]) -> dict[str, Pause]:
    """lane -> pause, in lane order. What stands there and is none of ours is a pause still, of nobody known."""
    found = {flat[at].decode(errors="replace"): flat[at + 1] for at in range(0, len(flat), 2)}
    return {lane: _pause(found[lane]) for lane in LANES if lane in found}


def pauses(link: Link, model: str) -> dict[str, Pause]:
    """lane -> pause, of those that are paused."""
    return read(link.call(*look(model)))


def lanes_of(names: Iterable[bytes]) -> frozenset[int]:
    """Lanes as slots number them, of their names in Redis."""
    return frozenset(LANES.index(text) for name in names if (text := name.decode(errors="replace")) in LANES)


def lanes(link: Link, model: str) -> frozenset[int]:
    """Which lanes are paused, as slots number them."""
    return lanes_of(link.call("HKEYS", keys.paused(model)))


def told(paused: dict[str, Pause]) -> str:
    """`paused by ann@box (deploy)`, `lane low paused by ann@box`; '' for nothing. Different pauses stand behind each other."""
    by_pause: dict[tuple[str, str], list[str]] = {}
    for lane, one in paused.items():
        by_pause.setdefault((one.by, one.reason), []).append(lane)
    parts = []
    for (by, reason), names in by_pause.items():
        which = (
            "" if len(names) == len(LANES) else f"lane {names[0]} " if len(names) == 1 else f"lanes {', '.join(names)} "
        )
        parts.append(f"{which}paused by {by}" + (f" ({reason})" if reason else ""))
    return ", ".join(parts)


def expire(model: str, lane: int, slot: str, cursor: str) -> Command:
    """Ends jobs past their deadline in one page of a paused lane, from `-` or the cursor before on, if `slot` is the one to do so.

    The reply is [jobs ended, cursor]; the cursor is '-' behind the last page.
    """
    return evalsha(
        "expire",
        [
            keys.counters(model), keys.stored(model), keys.watchers(model), keys.moved(model),
            keys.lane(model, LANES[lane]), keys.ready(model),
        ],
        [
            keys.of_model(model), keys.REPLY_TTL_MS, keys.REPLY_CAP, INLINE_LIMIT_BYTES, slot, cursor, EXPIRE_ENTRIES,
            EXPIRE_BYTES,
        ],
    )  # fmt: skip


def _pause(raw: Any) -> Pause:
    try:
        return msgspec.json.decode(raw, type=Pause)
    except msgspec.MsgspecError:
        return Pause("unknown", "", 0)
