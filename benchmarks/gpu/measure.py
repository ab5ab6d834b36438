"""One network on one device: the bare loop, then the pool, at each precision and batch size. Prints and writes nothing."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.gpu.bare import Bare
from benchmarks.gpu.busy import Busy
from benchmarks.gpu.models import Net
from benchmarks.gpu.slots import Slots, running
from broker.connection import Link
from producer import Producer

MOST_JOBS_PER_S, MOST_BYTES_PER_S = 20_000, 300e6  # of Redis: above, the bare loop is out of any queue's reach
REPEATS = 5
RESULT_WITHIN_S = 120.0


def measure(net: Net, folder: Path, url: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row of figures per precision and batch size."""
    for precision in options.precision:
        for rows in options.rows:
            bare = Bare(net, device=options.device, precision=precision, cuda_graphs=options.graphs, rows=rows)
            batches = [net.rows(rows, seed) for seed in range(max(2, min(16, options.jobs // rows)))]
            bare_rows = bare.rows_per_s(batches, REPEATS)
            bare_p50 = bare.p50_ms(batches[0], options.single)
            del bare  # the pool gets the device to itself
            if options.device != "cpu":
                torch.cuda.empty_cache()
            place = folder / f"{net.name}-{precision}-{rows}"
            made = net.artifact(place / "artifact", precision=precision, cuda_graphs=options.graphs, max_rows=rows)
            with running(
                place / "var", url, made.folder, model=net.name, device=options.device, slots=1, max_rows=rows
            ) as slots:
                pool_rows, share = flood(slots, net, options)
                pool_p50 = one_in_flight(slots, net, options.single) if rows == 1 else None
            clear(url)
            in_reach = bare_rows <= MOST_JOBS_PER_S and bare_rows * net.row_bytes <= MOST_BYTES_PER_S
            yield {
                "model": net.name, "precision": precision, "rows": rows, "bare_rows_per_s": bare_rows,
                "pool_rows_per_s": pool_rows, "ratio": pool_rows / bare_rows, "is_in_reach": in_reach,
                "slab_gb_per_s": pool_rows * net.row_bytes / 1e9, "busy_share": share,
                "bare_p50_ms": bare_p50, "pool_p50_ms": pool_p50,
                "added_p50_ms": None if pool_p50 is None else pool_p50 - bare_p50,
            }  # fmt: skip


def flood(slots: Slots, net: Net, options: argparse.Namespace) -> tuple[float, float | None]:
    """(rows a second from the first submit to the last outcome, share of time the GPU was busy), median of the repeats."""
    x = net.jobs(options.jobs)
    taken, shares = [], []
    with Producer(slots.url) as producer:
        for _ in range(REPEATS + 1):
            with Busy(options.device) as busy:
                began = time.perf_counter()
                handles = producer.submit_many(net.name, x, wait_s=RESULT_WITHIN_S)
                for handle in handles:
                    handle.result(RESULT_WITHIN_S)
                taken.append(time.perf_counter() - began)
            shares.append(busy.share)
    told = [share for share in shares[1:] if share is not None]
    return options.jobs / median(taken[1:]), median(told) if told else None  # the first one warms up


def one_in_flight(slots: Slots, net: Net, times: int) -> float:
    """p50 in ms of one job at a time."""
    (x,) = net.jobs(1)
    taken = []
    with Producer(slots.url) as producer:
        for _ in range(times + 20):
            began = time.perf_counter()
            producer.infer(net.name, x, timeout=RESULT_WITHIN_S)
            taken.append((time.perf_counter() - began) * 1e3)
    return median(taken[20:])


def clear(url: str) -> None:
    """The next slot of that name finds no results, routes or learned times of this one."""
    link = Link(url)
    link.connect()
    link.call("FLUSHALL", "SYNC")
    link.close()
