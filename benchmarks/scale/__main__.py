"""`make scale`: how the cost of a job scales. `python -m benchmarks.scale [--quick] [--only PART] [--out FOLDER]`.

Writes scale.json, scale.md and a curve for each part into benchmarks/results; a part that is not measured this time keeps what
stands there. A quick run ends within a minute and writes to var/scale-quick, so that it does not take a full run's place.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, report
from benchmarks.scale import backlog, curves, idle, payloads, producers, slots, tables
from benchmarks.stand import ROOT
from broker.connection import Link
from broker.embedded import temporary_server
from broker.errors import PenstockError

RESULTS = ROOT / "benchmarks" / "results"
QUICK_RESULTS = ROOT / "var" / "scale-quick"
PARTS: dict[str, Callable[[Path, bool], list[dict[str, Any]]]] = {
    "idle": idle.measure,  # first: nothing else has warmed the machine up
    "slots": slots.measure,
    "backlog": backlog.measure,
    "payloads": payloads.measure,
    "producers": producers.measure,
}
ALSO = {"payload": "payloads"}  # what one may well type


def measure(part: str, is_quick: bool) -> dict[str, Any]:
    """One part, in a folder of var/ that goes with it."""
    (ROOT / "var").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scale-", dir=ROOT / "var") as name:
        folder = Path(name)
        with temporary_server(folder / "about") as url:
            link = Link(url)
            link.connect()
            about = report.about(link) | {"load_1m": round(machine.load_1m(), 2)}
            link.close()
        return {"about": about, "is_quick": is_quick, "rows": PARTS[part](folder, is_quick)}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few sizes, short rounds: under a minute")
    parser.add_argument(
        "--only",
        choices=[*PARTS, *ALSO],
        metavar="PART",
        action="append",
        help=f"{', '.join(PARTS)}; may be given again",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the figures go (benchmarks/results)")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all that was started is ended then, too
    out = options.out or (QUICK_RESULTS if options.quick else RESULTS)
    file = out / "scale.json"
    try:  # before anything is measured
        out.mkdir(parents=True, exist_ok=True)
        figures: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    except OSError as error:
        parser.error(f"--out {out}: {error.strerror}; name a folder that can be written")
    except ValueError:
        parser.error(f"{file} is no JSON; remove it, or name another folder with --out")
    for part in dict.fromkeys(ALSO.get(name, name) for name in options.only or PARTS):
        print(f"scale: {part}", file=sys.stderr)
        try:
            figures[part] = measure(part, options.quick)
        except (PenstockError, RuntimeError, TimeoutError) as error:
            print(f"scale: {part}: {error}", file=sys.stderr)
            return 1
        report.write(file, figures)  # a later part that fails costs nothing of this one
    page = tables.page(figures)
    (out / "scale.md").write_text(page)
    print(page)
    try:
        curves.draw(figures, out)
    except ModuleNotFoundError:
        print(curves.WITHOUT, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
