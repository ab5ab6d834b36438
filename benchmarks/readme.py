"""`python -m benchmarks.readme`: renews README's table from the last full run. Figures of an earlier run are marked as such."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.stand import ROOT

FULL = Path(__file__).resolve().parent / "results" / "full.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- figures: python -m benchmarks.readme -->", "<!-- end of figures -->"
# text, prefix of the keys, bold
SIDES = (
    ("bare Streams loop on a raw socket: no stored results, no timings", "raw_bare_", False),
    ("the same on redis-py", "bare_", False),
    ("**Penstock**", "", True),
    ("mosec 0.9.8, HTTP by hand (256 clients in a flood)", "mosec_raw_", False),
    ("mosec 0.9.8, 64 HTTP clients (pyreqwest); HTTP, not a queue", "mosec_", False),
    ("celery-batches 0.11 on Celery 5.6", "celery_batches_", False),
    ("RQ 3.0 SimpleWorker", "rq_", False),
)
# Not part of `make bench`: measured once, 2026-11, on a machine of the same kind.
EARLIER = (
    ("Triton through PyTriton 0.7, gRPC (from here on an earlier run, 2026-11)", "2 170", "", "5.4"),
    ("arq 0.28 / taskiq-redis 1.2", "1 100-1 300 / 1 050-1 250", "", "11.5 / 6.9"),
    ("LitServe 0.2.19, 64 HTTP clients", "980", "", "5.5"),
)


def table(figures: dict[str, Any]) -> str:
    """The table and the line below it."""
    rows: list[report.Row] = [
        ("one worker, 64-feature MLP on ONNX Runtime", "flood, jobs/s", "64 in flight, jobs/s", "one in flight, p50 ms")
    ]
    for text, prefix, is_bold in SIDES:
        flood = figures.get(f"{prefix}jobs_per_s" if prefix else "flood_jobs_per_s")
        if flood is None:
            continue
        cells = (
            report.figure(flood, 0),
            _cell(figures, f"{prefix}in_flight_64_jobs_per_s", 0),
            _cell(figures, f"{prefix}one_in_flight_p50_ms", 2),
        )
        rows.append((text, *(f"**{cell}**" if is_bold and cell else cell for cell in cells)))
    rows += EARLIER
    about = (
        f"`make bench`, {figures['date'][:10]}, {figures['machine']}, {figures['cores']} cores, {figures['server']}; "
        f"medians of {figures['rounds']} rounds in which all took turns. How: [docs/performance.md](docs/performance.md)."
    )
    return f"{report.markdown(rows, right=(1, 2, 3))}\n\n{about}"


def renewed(text: str, figures: dict[str, Any]) -> str:
    """The README's text with the table between its marks. Raises ValueError when it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"put {BEGIN} and {END} around the table")
    return f"{before}{BEGIN}\n{table(figures)}\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.readme", description=(__doc__ or "").partition("\n")[0]
    ).parse_args(argv)
    try:
        figures = json.loads(FULL.read_text())
        report.write_text(README, renewed(README.read_text(), figures))
    except FileNotFoundError:
        print(f"readme: {FULL} is missing; run `make bench` first", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"readme: {README}: {error}", file=sys.stderr)
        return 1
    return 0


def _cell(figures: dict[str, Any], key: str, digits: int) -> str:
    return report.figure(figures[key], digits) if key in figures else ""


if __name__ == "__main__":
    sys.exit(main())
