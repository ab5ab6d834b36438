"""The functions a run may call, and no others. What is not in ALLOWED is not imported, whatever a job in Redis names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from broker.settings import load
from operators.reach import reach


def ping() -> float:
    """The pool's time, in seconds since 1970: shows that a worker takes runs and reaches the pool's Redis."""
    link = reach(load())
    try:
        seconds, micros = link.call("TIME")
    finally:
        link.close()
    return int(seconds) + int(micros) / 1e6


# The name a job gives -> the function itself, so that no name from Redis is ever imported or looked up in a module.
ALLOWED: Mapping[str, Callable[..., Any]] = MappingProxyType({"operators.runs.tasks.ping": ping})
