"""Learned row caps, shared by the slots of a model: after an out-of-memory others need not run into it too.

Only remembers; what a cap means, and when it is worth another try, is the workers' affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from broker import keys
from broker.connection import Command, Link, evalsha

FORGET_MS = 6 * 3_600_000  # long after any cap was doubled up to the largest batch


class Cap(msgspec.Struct, frozen=True):
    """A batch may have `rows` rows; learned at Redis time `at_ms`."""

    rows: int
    at_ms: int


def save(model: str, device: str, changes: Mapping[tuple[int, ...], Cap | None]) -> Command:
    """Writes caps of one device, None takes one away; passes at maxmemory. `device` must be unique over all hosts."""
    args: list[Any] = [FORGET_MS]
    for dims, cap in changes.items():
        args += (_field(device, dims), cap.rows if cap is not None else 0, cap.at_ms if cap is not None else 0)
    return evalsha("caps", [keys.caps(model)], args)


def load(link: Link, model: str, device: str) -> dict[tuple[int, ...], Cap]:
    """What was learned on this device; entries nobody can read are left out."""
    flat = link.call("HGETALL", keys.caps(model))
    found = {}
    for field, value in zip(flat[::2], flat[1::2], strict=True):
        name, _, sizes = field.decode(errors="replace").rpartition("|")
        numbers = value.split()
        if name == device and len(numbers) == 2 and all(number.isdigit() for number in numbers):
            dims = tuple(int(size) for size in sizes.split("x") if size.isdigit())
            found[dims] = Cap(max(1, int(numbers[0])), int(numbers[1]))
    return found


def _field(device: str, dims: tuple[int, ...]) -> str:
    return f"{device}|{'x'.join(map(str, dims))}"
