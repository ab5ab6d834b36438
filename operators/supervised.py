"""One program as supervisord sees it, and the words it has for a program's state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

# supervisord's states: these come to rest, those run or are about to.
AT_REST = frozenset({"STOPPED", "FATAL", "UNKNOWN"})
RUNNING = frozenset({"RUNNING", "STARTING"})


class Program(msgspec.Struct, frozen=True):
    """RUNNING says nothing about whether a slot is ready."""

    name: str
    state: str
    pid: int
    up_s: int
    log: str
    trouble: str = ""  # supervisord's own words when it could not spawn


def program(info: dict[str, Any]) -> Program:
    """Of what getProcessInfo tells."""
    return Program(
        name=info["name"],
        state=info["statename"],
        pid=info["pid"],
        up_s=info["now"] - info["start"] if info["pid"] else 0,
        log=info["stdout_logfile"],
        trouble=info["spawnerr"],
    )


def numbered(slots: Iterable[Program]) -> dict[int, Program]:
    """Programs of slots by their number."""
    return dict(sorted((int(one.name.rpartition("_")[2]), one) for one in slots))
