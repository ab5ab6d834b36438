"""Who changed what in the pool: one entry a command that changes something, in a bounded stream."""

from __future__ import annotations

import getpass
import os
import socket
from typing import Any

import msgspec

from broker import keys
from broker.connection import Link


class Act(msgspec.Struct, frozen=True):
    """One thing done. `user` is the login that ran the command, `host` its machine; `at_ms` Redis' time."""

    user: str
    host: str
    command: str
    target: str
    reason: str
    at_ms: int


def record(link: Link, command: str, target: str = "", *, reason: str = "") -> None:
    """Notes what was just done. `command` as the operator knows it, e.g. `scale`; `target` what it was done to."""
    fields = {"user": user(), "host": socket.gethostname(), "command": command, "target": target, "reason": reason}
    flat = [part for pair in fields.items() for part in pair]
    link.call("XADD", keys.audit(), "MAXLEN", "~", keys.AUDIT_CAP, "*", *flat)


def acts(link: Link, count: int = 100) -> list[Act]:
    """The latest first."""
    found: list[Any] = link.call("XREVRANGE", keys.audit(), "+", "-", "COUNT", count)
    return [_read(entry, flat) for entry, flat in found]


def _read(entry: bytes, flat: list[bytes]) -> Act:
    texts = [part.decode(errors="replace") for part in flat]
    fields = dict(zip(texts[::2], texts[1::2], strict=True))
    named = {name: fields.get(name, "") for name in ("user", "host", "command", "target", "reason")}
    return Act(**named, at_ms=int(entry.partition(b"-")[0]))


def user() -> str:
    """The login behind sudo, if any; the number of a user without a name."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
