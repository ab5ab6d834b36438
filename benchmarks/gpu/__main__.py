"""`python -m benchmarks.gpu`: the bare loop against the pool on one GPU, and many lives of its slots. `make gpu` runs it.

Writes benchmarks/results/gpu.json. With `--device cpu` it runs at tiny sizes, to show that the code runs: such a file says so,
and is never written over the GPU's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import torch

from benchmarks import report
from benchmarks.gpu.bare import Bare
from benchmarks.gpu.busy import Busy
from benchmarks.gpu.models import ROOT, Net, nets
from benchmarks.gpu.slots import Slots, running
from benchmarks.gpu.storm import storm
from broker.connection import Link
from broker.embedded import temporary_server
from producer import Producer

RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
SMOKE = "a smoke run on the CPU at tiny sizes: no figure of a GPU"
MOST_JOBS_PER_S, MOST_BYTES_PER_S = 20_000, 300e6  # of Redis: above, the bare loop is out of any queue's reach
REPEATS = 5
RESULT_WITHIN_S = 120.0
MEMORY_MB = 16_384


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


def table(cells: list[dict[str, Any]]) -> str:
    """The figures for people."""
    rows = [["model", "precision", "rows", "bare/s", "pool/s", "ratio", "GB/s", "busy", "added p50 ms"]]
    for cell in cells:
        busy, added = cell["busy_share"], cell["added_p50_ms"]
        rows.append([
            cell["model"], cell["precision"], str(cell["rows"]), f"{cell['bare_rows_per_s']:.0f}",
            f"{cell['pool_rows_per_s']:.0f}", f"{cell['ratio']:.2f}" + ("" if cell["is_in_reach"] else " *"),
            f"{cell['slab_gb_per_s']:.2f}", "-" if busy is None else f"{busy:.0%}",
            "-" if added is None else f"{added:.2f}",
        ])  # fmt: skip
    return (
        report.table(rows, right=range(2, 9))
        + "\n* the bare loop would need more than 20 000 jobs/s or 300 MB/s through Redis"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="The bare loop against the pool on a GPU."
    )
    parser.add_argument("--device", default="cuda:0", help="cuda:0 ..., or cpu for a smoke run at tiny sizes")
    parser.add_argument("--models", nargs="+", default=["resnet", "minilm"], choices=["resnet", "minilm"])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64], help="batch sizes")
    parser.add_argument(
        "--precision", nargs="+", default=["float32", "float16"], choices=["float32", "float16", "bfloat16"]
    )
    parser.add_argument("--jobs", type=int, default=2048, help="jobs of one flood")
    parser.add_argument("--single", type=int, default=200, help="jobs one at a time")
    parser.add_argument(
        "--retirements", type=int, default=200, help="lives of four slots; each takes as long as a load"
    )
    parser.add_argument("--no-graphs", dest="graphs", action="store_false", help="without CUDA graphs, on both sides")
    parser.add_argument("--out", default="", help=f"file of figures (default {RESULTS.relative_to(ROOT)})")
    options = parser.parse_args(argv)
    is_smoke = options.device == "cpu"
    if not is_smoke and not torch.cuda.is_available():
        print(
            f"torch {torch.__version__} finds no CUDA device; --device cpu runs the code at tiny sizes, for no figures"
        )
        return 1
    out = Path(options.out) if options.out else RESULTS
    if is_smoke and out.resolve() == RESULTS.resolve():
        print(f"{SMOKE}; name another file with --out")
        return 1
    torch.set_num_threads(1)  # as the engine has
    cells: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="penstock-gpu-") as name:
        folder = Path(name)
        with temporary_server(folder / "redis", max_memory_mb=MEMORY_MB) as url:
            link = Link(url)
            link.connect()
            about = report.about(link)
            link.close()
            for net in nets(is_tiny=is_smoke):
                if net.name not in options.models:
                    continue
                for cell in measure(net, folder, url, options):
                    cells.append(cell)
                    print(table(cells).splitlines()[-2], flush=True)
            lives = (
                storm(
                    nets(is_tiny=is_smoke)[1],
                    folder / "storm",
                    url,
                    device=options.device,
                    retirements=options.retirements,
                )
                if options.retirements
                else None
            )
    figures = {
        "device": "cpu" if is_smoke else torch.cuda.get_device_name(options.device), "smoke": SMOKE if is_smoke else "",
        "torch": str(torch.__version__), "cuda_graphs": options.graphs, "cells": cells, "retirements": lives, "about": about,
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1) + b"\n")
    print(table(cells))
    if lives is not None:
        print(
            f"{lives['retirements']} lives of {lives['slots']} slots in {lives['took_s']:.0f} s: {lives['lost']} of {lives['jobs']} "
            f"jobs lost, device memory grew by {lives['device_bytes_grown']} bytes"
        )
    print(f"{SMOKE}; in {out}" if is_smoke else f"figures in {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
