"""The functions a run may call, and no others. What is not in ALLOWED is not imported, whatever a job in Redis names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from broker.settings import load
from operators.reach import reached
from operators.runs import clean, scheduled
from operators.runs.program_context import context
from operators.runs.working import take_turn


def ping() -> float:
    """The pool's time, in seconds since 1970: shows that a worker takes runs and reaches the pool's Redis."""
    with reached(load()) as link:
        seconds, micros = link.call("TIME")
    return int(seconds) + int(micros) / 1e6


def score(run: str) -> str:
    """Works a run of this id until it ends, is asked to pause, or others are to go on; what came of it. Raises RunError when it failed.

    Only within the program of runs, which knows what it is told meanwhile.
    """
    return take_turn(str(run), context.get())


# The name a job gives -> the function itself, so that no name from Redis is ever imported or looked up in a module.
ALLOWED: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "operators.runs.tasks.ping": ping,
        "operators.runs.tasks.score": score,
        "operators.runs.scheduled.submit": scheduled.submit,
        "operators.runs.clean.clean": clean.clean,
    }
)
