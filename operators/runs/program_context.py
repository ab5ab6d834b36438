"""What the program gives the task that RQ calls in it: a task has no other way to its parts, because RQ passes names and JSON only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import msgspec

from broker.settings import Settings


class ProgramContext(msgspec.Struct, frozen=True):
    """One program's working time. `owner` is how its leases are signed.

    `is_stopping`: whether it was told to end. `waiting`: the priorities of the runs that wait for a program. `tell`: shows progress in RQ's
    tools, and keeps the job alive there. `works`: which run is worked, "" none.
    """

    settings: Settings
    url: str
    owner: str
    is_stopping: Callable[[], bool]
    waiting: Callable[[], tuple[str, ...]]
    tell: Callable[[Mapping[str, Any]], None]
    works: Callable[[str], None]


context: ContextVar[ProgramContext] = ContextVar("context")
