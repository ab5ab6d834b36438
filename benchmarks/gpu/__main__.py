"""`python -m benchmarks.gpu`: the bare loop against the pool on one GPU, and many lives of its slots. `make gpu` runs it.

Writes benchmarks/results/gpu.json. With `--device cpu` it runs at tiny sizes, to show that the code runs: such a file says so,
and is never written over the GPU's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import report
from benchmarks.stand import ROOT
from broker.connection import Link
from broker.embedded import temporary_server

RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
SMOKE = "a smoke run on the CPU at tiny sizes: no figure of a GPU"
MEMORY_MB = 16_384


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


def _count(text: str) -> int:
    """A number from 1 up, as argparse takes it."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 up")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="The bare loop against the pool on a GPU."
    )
    parser.add_argument("--device", default="cuda:0", help="cuda:0 ..., or cpu for a smoke run at tiny sizes")
    parser.add_argument("--models", nargs="+", default=["resnet", "minilm"], choices=["resnet", "minilm"])
    parser.add_argument("--rows", type=_count, nargs="+", default=[1, 4, 16, 64], help="batch sizes")
    parser.add_argument(
        "--precision", nargs="+", default=["float32", "float16"], choices=["float32", "float16", "bfloat16"]
    )
    parser.add_argument("--jobs", type=_count, default=2048, help="jobs of one flood")
    parser.add_argument("--single", type=_count, default=200, help="jobs one at a time")
    parser.add_argument(
        "--retirements", type=int, default=200, help="lives of four slots, each as long as a load; 0: none"
    )
    parser.add_argument("--no-graphs", dest="graphs", action="store_false", help="without CUDA graphs, on both sides")
    parser.add_argument("--out", default="", help=f"file of figures (default {RESULTS.relative_to(ROOT)})")
    options = parser.parse_args(argv)
    try:  # after parsing: --help and a mistyped option need none of it
        import torch

        from benchmarks.gpu.measure import measure
        from benchmarks.gpu.models import nets
        from benchmarks.gpu.storm import storm
    except ModuleNotFoundError as error:
        print(
            f"gpu: {error}; install the workers extra, or name a Python that has it: make gpu PYTHON=...",
            file=sys.stderr,
        )
        return 1
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
    known = [f"cuda:{place}" for place in range(torch.cuda.device_count())]
    if not is_smoke and options.device not in known:
        parser.error(f"--device {options.device} is not here; there are {', '.join(known)}, and cpu for a smoke run")
    try:  # before anything is measured
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {out}: {error.strerror}; name a file in a folder that can be written")
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
