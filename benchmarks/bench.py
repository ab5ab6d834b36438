"""`make bench`: the pool beside the bare Streams loop and beside its peers, in one run. `python -m benchmarks.bench [--quick]`.

Everybody takes turns on servers of the same kind; every figure is the median over the rounds, every ratio the median of the
rounds' own ratios. Writes into benchmarks/results/: latest.json (one flat object), latest.md (the table), latest.png (plots),
latest-rounds.json (every round); a full run the same as full.*. Speeds that miss their mark are shown so; a lost job, a job
answered twice or a pool that fails ends the run with a non-zero exit code.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import lanes, machine, magika, marks, minilm, openloop, plot, report, retire, sizes, streams
from benchmarks.sizes import Size
from benchmarks.spread import Figures
from benchmarks.stand import ROOT
from broker.errors import PenstockError

RESULTS = Path(__file__).resolve().parent / "results"
Part = Callable[[Path, Size, Figures], Figures]
PARTS: Mapping[str, Part] = {
    "streams": streams.measure,
    "open": openloop.measure,
    "lanes": lanes.measure,
    "magika": magika.measure,
    "minilm": minilm.measure,
    "retire": retire.measure,
}
QUICK_PARTS = ("streams", "open")


def measure(parts: Sequence[str], size: Size, raw: Figures) -> Figures:
    """The parts one after another, in a folder of var/ that goes with them; each says on stderr how long it took."""
    (ROOT / "var").mkdir(exist_ok=True)
    figures: Figures = {}
    for name in parts:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="bench-", dir=ROOT / "var") as folder:
            figures = PARTS[name](Path(folder), size, raw) | figures  # what the first part says of the server stands
        print(f"bench: {name} took {time.monotonic() - began:.0f} s", file=sys.stderr)
    figures["load_1m"] = round(machine.load_1m(), 2)
    return figures


def write(figures: Figures, raw: Figures, *names: str) -> None:
    """The files of a run, under each name."""
    first = names[0]
    report.write(RESULTS / f"{first}.json", figures)
    report.write(RESULTS / f"{first}-rounds.json", raw)
    report.write_text(RESULTS / f"{first}.md", marks.markdown(figures))
    files = [f"{first}.json", f"{first}-rounds.json", f"{first}.md"]
    if plot.draw(figures, RESULTS / f"{first}.png"):
        files.append(f"{first}.png")
    for name in names[1:]:
        for file in files:
            shutil.copyfile(RESULTS / file, RESULTS / file.replace(first, name, 1))


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=(__doc__ or "").partition("\n")[0])
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument("--quick", action="store_true", help=f"fewer rounds of {' and '.join(QUICK_PARTS)}: a minute")
    how_much.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs; writes smoke.*")
    parser.add_argument(
        "--only", choices=PARTS, action="append", help="this part alone, may be given again; writes NAME.*"
    )
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all that was started is ended then, too
    size = sizes.QUICK if options.quick else sizes.SMOKE if options.smoke else sizes.FULL
    parts = options.only or (
        QUICK_PARTS if options.quick else [name for name in PARTS if not options.smoke or name != "retire"]
    )
    raw: Figures = {}
    try:
        figures = measure(parts, size, raw)
    except (PenstockError, RuntimeError, TimeoutError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    figures |= {"is_quick": size is not sizes.FULL, "rounds": size.rounds}
    if options.only or options.smoke:
        write(figures, raw, "smoke" if options.smoke else "-".join(parts))
    elif options.quick:
        write(figures, raw, "latest")
    else:
        write(figures, raw, "latest", "full")
    print(marks.table(figures))
    is_broken = any(figures.get(name) for name in marks.MUST_BE_ZERO) or figures.get("ready_never_zero") is False
    return int(is_broken)


if __name__ == "__main__":
    sys.exit(main())
