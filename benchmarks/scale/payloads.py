"""Payloads from 256 bytes to 4 MB: jobs/s, MB/s and CPU a MB by role, beside what Redis' streams move at the same size.

One producer keeps a window of jobs open, as a batch pipeline does, so that Redis holds tens of MB and not all of it. The ceiling
(`pipe`) and the pool take turns on two servers of the same kind.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.scale import edges, limit, pipe
from benchmarks.scale.bank import Bank, bank, mine
from benchmarks.scale.cpu import Clock
from broker.connection import Link
from broker.embedded import temporary_server
from producer import Producer

KB, MB = 1 << 10, 1 << 20
SIZES = (256, KB, 4 * KB, 16 * KB, 64 * KB, 256 * KB, MB, 4 * MB)
QUICK_SIZES = (256, MB)
WINDOW_BYTES = 64 * MB
MOST_WINDOW = 4_096
LEAST_WINDOW = 8
MOST_JOBS = 60_000
MEMORY_MB = 2_048
DISTINCT = 32  # bodies in turn, so that nothing is sent that the caches hold
WARM_JOBS = 16
TIMEOUT_S = 60.0


def measure(folder: Path, is_quick: bool) -> list[dict[str, Any]]:
    """A row for each size."""
    sizes, total = (QUICK_SIZES, 8 * MB) if is_quick else (SIZES, 512 * MB)
    return [one(folder / str(size), size, total, rounds=1 if is_quick else 3) for size in sizes]


def one(folder: Path, size: int, total_bytes: int, *, rounds: int) -> dict[str, Any]:
    """One size, `total_bytes` of it a round on each side."""
    jobs = max(4 * LEAST_WINDOW, min(MOST_JOBS, total_bytes // size))
    window = max(LEAST_WINDOW, min(MOST_WINDOW, WINDOW_BYTES // size))
    rows = list(np.random.default_rng(1).integers(0, 256, (DISTINCT, size), np.uint8))
    bodies = [row.tobytes() for row in rows]
    artifact = edges.build(folder / "edges", size)
    with (
        temporary_server(folder / "pipe", max_memory_mb=MEMORY_MB) as pipe_url,
        temporary_server(folder / "server", max_memory_mb=MEMORY_MB) as url,
        pipe.reader(pipe_url, pipe.at_once(size)) as reader_pid,
        bank(folder / "bank", url, artifact, 1) as slots,
        Producer(url) as producer,
    ):
        raw = Link(pipe_url)
        raw.connect()
        raw_pids = {"writer": mine()["producer"], "reader": [reader_pid], "redis": [machine.server_pid(raw)]}
        pipe.write(raw, bodies, WARM_JOBS, window)
        through(producer, slots, rows, WARM_JOBS, window)
        ceilings, speeds, cpu, raw_cpu = [], [], [], []
        for _ in range(rounds):
            clock = Clock(raw_pids)
            ceilings.append(jobs / pipe.write(raw, bodies, jobs, window))
            raw_cpu.append(clock.spent())
            clock = Clock(slots.roles() | mine())
            speeds.append(jobs / through(producer, slots, rows, jobs, window))
            cpu.append(clock.spent())
        raw.close()
    moved_mb = jobs * size / MB
    shares = {role: round(median(one.shares()[role] for one in cpu), 3) for role in cpu[0].cpu_s}
    others = round(median(one.others() for one in cpu), 3)
    return {
        "bytes": size,
        "jobs": jobs,
        "window": window,
        "max_rows": edges.most_rows(size),
        "jobs_per_s": round(median(speeds), 1),
        "mb_per_s": round(median(speeds) * size / MB, 1),
        "ceiling_jobs_per_s": round(median(ceilings), 1),
        "ceiling_mb_per_s": round(median(ceilings) * size / MB, 1),
        "ratio": round(median(ours / raw for ours, raw in zip(speeds, ceilings, strict=True)), 3),
        "cpu_us_per_job": {role: round(median(one.us_per(jobs)[role] for one in cpu), 1) for role in cpu[0].cpu_s},
        "cpu_ms_per_mb": {
            role: round(median(one.us_per(moved_mb)[role] for one in cpu) / 1e3, 3) for role in cpu[0].cpu_s
        },
        "ceiling_cpu_ms_per_mb": {
            role: round(median(one.us_per(moved_mb)[role] for one in raw_cpu) / 1e3, 3) for role in raw_cpu[0].cpu_s
        },
        "cores_used": shares,
        "others_cores": others,
        "limited_by": limit.bound(shares=shares, counts={}, others=others, cores=machine.cores()),
    }


def through(producer: Producer, slots: Bank, rows: list[Any], jobs: int, window: int) -> float:
    """`jobs` rows through the pool; seconds. Raises RuntimeError for an answer that is wrong."""
    wanted = [edges.answer(row) for row in rows]
    started = time.perf_counter()
    results = producer.map(slots.model, (rows[at % len(rows)] for at in range(jobs)), window=window, timeout=TIMEOUT_S)
    wrong = sum(float(result["y"][0]) != wanted[at % len(rows)] for at, result in enumerate(results))
    took_s = time.perf_counter() - started
    if wrong:
        raise RuntimeError(f"{wrong} of {jobs} answers are wrong")
    return took_s
