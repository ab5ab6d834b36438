"""What a pool takes that has nothing to do: cores of slot, engine and Redis over some seconds without a job."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.scale.bank import bank
from benchmarks.scale.cpu import Clock
from broker.embedded import temporary_server
from examples.mlp.build import build
from producer import Producer

COUNTS = (1, 4)
QUICK_COUNTS = (1,)
QUIET_S = 2.0  # after the warm-up has ended


def measure(folder: Path, is_quick: bool) -> list[dict[str, Any]]:
    """A row for each count of slots."""
    artifact = folder / "mlp"
    build(artifact)
    rows = []
    with (
        temporary_server(folder / "server") as url,
        bank(folder / "bank", url, artifact, 0) as slots,
    ):
        for count in QUICK_COUNTS if is_quick else COUNTS:
            slots.start(count - slots.slots)
            with Producer(url) as producer:  # a pool that has served, not one that never did
                producer.infer("mlp", [0.0] * 64, 30)
            time.sleep(QUIET_S)
            roles = slots.roles()
            clock = Clock(roles)
            time.sleep(2.0 if is_quick else 10.0)
            spent = clock.spent()
            shares = spent.shares()
            each = (shares["slot"] + shares["engine"]) / count
            rows.append(
                {
                    "slots": count,
                    "seconds": round(spent.took_s, 1),
                    "percent_of_a_core_per_slot": round(100 * each, 3),
                    "percent_with_redis_per_slot": round(100 * (each + shares["redis"] / count), 3),
                    "cores_used": shares,
                }
            )
    return rows
