"""T in Redis: what forwards took, per manifest and device, so that a slot's next life plans with it from its first batch.

Only remembers; what the numbers mean is the workers' affair. Nobody depends on it: what is lost is learned again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import msgspec

from broker import keys
from broker.connection import Command, Link, evalsha

Dims = tuple[int, ...]


class Learned(msgspec.Struct, frozen=True):
    """What forwards of one size took, in ms; a size is padded rows and the padded varying dimensions."""

    rows: int
    dims: Dims
    median_ms: float
    p99_ms: float


def save(model: str, digest: str, device: str, sizes: Iterable[Learned]) -> Command:
    """Writes sizes beside those known; passes at maxmemory. `device` must be unique over all hosts, `digest` names the manifest."""
    args: list[Any] = [keys.TIMES_TTL_MS]
    for one in sizes:
        args += (f"{one.rows}|{'x'.join(map(str, one.dims))}", f"{one.median_ms:.4f} {one.p99_ms:.4f}")
    return evalsha("times", [keys.times(model, digest, device)], args)


def load(link: Link, model: str, digest: str, device: str) -> list[Learned]:
    """What was learned of this manifest on this device; entries nobody can read are left out."""
    flat = link.call("HGETALL", keys.times(model, digest, device))
    found = []
    for field, value in zip(flat[::2], flat[1::2], strict=True):
        rows, _, dims = field.decode(errors="replace").partition("|")
        try:
            median_ms, p99_ms = (float(number) for number in value.split())
            learned = Learned(int(rows), tuple(int(size) for size in dims.split("x") if size), median_ms, p99_ms)
        except ValueError:
            continue
        if learned.rows > 0 and 0 <= median_ms <= p99_ms < math.inf:
            found.append(learned)
    return found
