"""Requests of slots that shall be replaced by a spare before they stop: one per slot number, in a hash per host.

The slot writes `asked`, once; only the agent writes after that and removes. So a request survives either of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from broker import keys
from broker.connection import Command, Link

# asked: the slot waits for an answer.  loading: the spare is on its way.  swapping: the spare is ready, the slot must go.
# refused: the slot retires without overlap; the spare, if there is one, is taken back.
Phase = Literal["asked", "loading", "swapping", "refused"]


class Request(msgspec.Struct, frozen=True):
    """One slot's request. `spare` is the number of the slot that shall take over, -1 while there is none."""

    model: str
    reason: str
    pid: int  # of the incarnation that asked
    since_ms: int  # Redis time of the last change of phase
    phase: Phase = "asked"
    spare: int = -1
    why: str = ""  # of a refusal


def ask(host: str, number: int, request: Request) -> Command:
    """The slot's command; the reply is 0 where an older request of that number still stands."""
    return ("HSETNX", keys.overlap(host), number, msgspec.json.encode(request))


def look(host: str, number: int) -> list[Command]:
    """The slot's questions: its request's state, and whether an agent lives on its host."""
    return [("HGET", keys.overlap(host), number), ("EXISTS", keys.agent(host))]


def decode(body: bytes) -> Request | None:
    """A request, or None for bytes that are none."""
    try:
        return msgspec.json.decode(body, type=Request)
    except msgspec.DecodeError:
        return None


def requests(link: Link, host: str) -> dict[int, Request]:
    """slot number -> request on this host."""
    return read(link.call("HGETALL", keys.overlap(host)))


def read(raw: Sequence[bytes]) -> dict[int, Request]:
    """Of a host's whole hash; what is no request is left out."""
    found = {}
    for number, body in zip(raw[::2], raw[1::2], strict=True):
        request = decode(body)
        if request is not None and number.isdigit():
            found[int(number)] = request
    return found


def write(link: Link, host: str, number: int, request: Request | None) -> None:
    """The agent's answer; None takes the request away."""
    if request is None:
        link.call("HDEL", keys.overlap(host), number)
    else:
        link.call("HSET", keys.overlap(host), number, msgspec.json.encode(request))


def clear(link: Link, host: str) -> None:
    """Takes all requests of a host away: the pool goes down or starts afresh."""
    link.call("DEL", keys.overlap(host))
