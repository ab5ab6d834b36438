"""The programs that work bulk runs, as they beat. What they say of a run stands in `runs`; how they say it in `run_lease`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from broker import keys, roster
from broker.connection import Link


class Beat(msgspec.Struct, frozen=True):
    """One program that works runs, alive: what it last said. `run` is the one it works, "" when it waits for one."""

    host: str
    name: str
    pid: int
    run: str
    at_ms: int


def beats(link: Link) -> list[Beat]:
    """The programs that work runs, on all hosts."""
    hosts = roster.names(link.call("ZRANGE", keys.runs_beat(""), 0, -1))
    clock, *replies = link.call_all([("TIME",), *(("HGETALL", keys.runs_beat(host)) for host in hosts)])
    return read(hosts, replies, roster.read_time(clock))


def read(hosts: Sequence[str], replies: Sequence[Any], now_ms: int) -> list[Beat]:
    """The programs of each host, of its HGETALL; what is garbled there is nobody's beat."""
    found = []
    for host, flat in zip(hosts, replies, strict=True):
        for name, text in (roster.strings(flat) if isinstance(flat, list) else {}).items():
            at_ms, _, body = text.partition(" ")
            with suppress(ValueError, TypeError, KeyError):
                if now_ms - int(at_ms) < keys.AGENT_TTL_MS:
                    said = msgspec.json.decode(body)
                    found.append(Beat(host, name, int(said["pid"]), str(said["run"]), int(at_ms)))
    return found
