"""1, 2 and 4 slots of a model that sleeps: does twice the slots mean twice the jobs, and what stops it when not.

Two sizes of batch. With few rows the model's own time is the limit and the pool should follow the slots; with many a single
slot asks for more than the machine's cores move, and the shares tell whose they are.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import flood, machine, sleeper
from benchmarks.scale import limit
from benchmarks.scale.bank import Bank, bank, mine
from benchmarks.scale.cpu import Clock
from broker.embedded import temporary_server
from producer import Producer

SLEEP_MS = 5.0
COUNTS = (4, 2, 1)  # the slots are started once and ended one by one
QUICK_COUNTS = (2, 1)  # loading torch four times at once is half a quick run
MAX_ROWS = (32, 256)
QUICK_MAX_ROWS = (32,)
MOST_JOBS_PER_S = 40_000  # more than this two cores do not move, so no flood need be longer
TIMEOUT_S = 120.0


def measure(folder: Path, is_quick: bool) -> list[dict[str, Any]]:
    """A row for each size of batch and each count of slots."""
    rows = []
    counts = QUICK_COUNTS if is_quick else COUNTS
    for max_rows in QUICK_MAX_ROWS if is_quick else MAX_ROWS:
        artifact = sleeper.build(folder / f"sleeper-{max_rows}", sleep_ms=SLEEP_MS, max_rows=max_rows)
        with (
            temporary_server(folder / f"server-{max_rows}") as url,
            bank(folder / f"bank-{max_rows}", url, artifact, counts[0]) as slots,
            Producer(url) as producer,
        ):
            floods(slots, producer, flood.rows(2_000, sleeper.FEATURES))  # warm-up
            for count in counts:
                slots.keep(count)
                rows.append(one(slots, producer, max_rows, rounds=1 if is_quick else 5, for_s=0.7 if is_quick else 4.0))
    return sorted(rows, key=lambda row: (row["max_rows"], row["slots"]))


def one(slots: Bank, producer: Producer, max_rows: int, *, rounds: int, for_s: float) -> dict[str, Any]:
    """One count of slots: `rounds` floods that last about `for_s` each."""
    possible = slots.slots * max_rows / SLEEP_MS * 1e3
    jobs = int(min(possible, MOST_JOBS_PER_S) * for_s)
    x = flood.rows(jobs, sleeper.FEATURES)
    roles = slots.roles() | mine()
    before = slots.batches()
    clock = Clock(roles)
    speeds = [jobs / floods(slots, producer, x) for _ in range(rounds)]
    spent = clock.spent()
    after = slots.batches()
    mean_batch = (after[0] - before[0]) / max(1, after[1] - before[1])
    counts = {role: len(pids) for role, pids in roles.items()}
    shares = spent.shares()
    speed = median(speeds)
    return {
        "slots": slots.slots,
        "max_rows": max_rows,
        "jobs": jobs,
        "jobs_per_s": round(speed),
        "jobs_per_s_lowest": round(min(speeds)),
        "jobs_per_s_highest": round(max(speeds)),
        "of_possible": round(speed / possible, 3),
        "mean_batch": round(mean_batch, 1),
        "between_forwards_ms": round(slots.slots * mean_batch / speed * 1e3 - SLEEP_MS, 3),
        "cores_used": shares,
        "others_cores": spent.others(),
        "cpu_us_per_job": spent.us_per(jobs * rounds),
        "limited_by": limit.of_model(
            limit.bound(shares=shares, counts=counts, others=spent.others(), cores=machine.cores()),
            of_possible=speed / possible,
            fill=mean_batch / max_rows,
        ),
    }


def floods(slots: Bank, producer: Producer, x: NDArray[np.float32]) -> float:
    """Queues the rows and waits for all outcomes; seconds. Raises JobFailed or TimeoutError for one that is not done."""
    started = time.perf_counter()
    handles = producer.submit_many(slots.model, x)
    handles[-1].result(TIMEOUT_S)
    for handle in handles:
        if handle.status() != "done":  # with several slots the last is not the last to be done
            handle.result(TIMEOUT_S)
    return time.perf_counter() - started
