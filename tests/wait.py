"""Waiting for something to become true; the only way a test waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_until(predicate: Callable[[], Value], description: str, timeout: float = 20.0) -> Value:
    """Polls until `predicate` gives something true, and returns that. Fails with `description` after `timeout` s: many, for a
    busy machine; they cost nothing where all is well."""
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain until {description}; last seen: {value!r}")
        time.sleep(0.002)
    return value
