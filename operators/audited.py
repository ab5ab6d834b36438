"""The audit's entry of a command that was carried out: it never makes the command fail."""

from __future__ import annotations

from collections.abc import Callable

from broker import audit
from broker.connection import LOST, ResponseError
from broker.errors import RedisUnavailable
from broker.settings import Settings
from operators.reach import reached


def note(settings: Settings, command: str, target: str = "", *, reason: str, say: Callable[[str], None]) -> None:
    """As `broker.audit.record`; where Redis is away or full, that is said instead."""
    try:
        with reached(settings) as link:
            audit.record(link, command, target, reason=reason)
    except (*LOST, RedisUnavailable, ResponseError) as error:
        say(f"not noted in the audit: {error}")
