"""`python -m benchmarks.runs [--quick]`: a bulk run through one slot beside the bare loop that reads, infers and writes.

2 000 000 rows of 64 float32 in Parquet, scored by the benchmarks' MLP into Parquet. The bare loop is one process with no Redis and
no second one: pyarrow's batches, `session.run` on 256 rows at a time with the threads of the slot's engine, a row group at a time
written. Both in turns; the ratio is the median of the rounds' own. `ours` counts from submit to done; memory is looked at meanwhile.
The predictions must be the same, row by row. Bodies of jobs stand in a folder of /dev/shm, as docs/runs.md advises for one host;
`--bodies redis` has them in Redis.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import bare, machine, report
from benchmarks.pools import Pool, running
from benchmarks.stand import ROOT
from broker import roster, runs
from broker.errors import PenstockError
from examples.mlp.build import build

ROWS, QUICK_ROWS, ROUNDS, QUICK_ROUNDS = 2_000_000, 200_000, 5, 3
FEATURES, BATCH, READ_ROWS, GROUP_ROWS = 64, 256, 65_536, 131_072
COLUMNS = [f"f{number}" for number in range(FEATURES)]
LONGEST_S, LOOK_S = 600.0, 0.02
WANTED, WANTED_GROWTH = 0.8, 0.10
RESULTS = Path(__file__).resolve().parent / "results" / "runs.txt"


class Run(msgspec.Struct, frozen=True):
    """One run: how long from submit to done and from its first turn to done, and memory in MB as it went on, by process."""

    took_s: float
    worked_s: float
    memory_mb: dict[str, list[float]]


def write_input(path: Path, rows: int) -> None:
    """Random rows with an id, in row groups as most writers make them."""
    random = np.random.default_rng(3)
    names = ["id", *COLUMNS]
    schema = pa.schema([("id", pa.int64()), *((name, pa.float32()) for name in COLUMNS)])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for first in range(0, rows, GROUP_ROWS):
            count = min(GROUP_ROWS, rows - first)
            x = random.normal(size=(FEATURES, count)).astype(np.float32)
            writer.write_table(pa.table([np.arange(first, first + count), *x], names=names))


def bare_loop(graph: bytes, source: Path, target: Path) -> float:
    """Seconds of reading, inferring and writing in one process."""
    session = bare.session(graph)
    began = time.monotonic()
    writer: pq.ParquetWriter | None = None
    for batch in pq.ParquetFile(source).iter_batches(READ_ROWS):
        x = np.stack([batch[name].to_numpy(zero_copy_only=False) for name in COLUMNS], axis=1)
        logits = np.concatenate([session.run(None, {"x": x[at : at + BATCH]})[0] for at in range(0, len(x), BATCH)])
        best = logits.argmax(axis=1)
        table = pa.table(
            {"id": batch["id"], "prediction": best, "confidence": np.take_along_axis(logits, best[:, None], 1)[:, 0]}
        )
        writer = writer or pq.ParquetWriter(target, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    return time.monotonic() - began


def one_run(pool: Pool, source: Path, target: Path) -> Run:
    """Submits a run and looks at it until it has ended. Raises RuntimeError when it did not end well."""
    request = runs.Request(
        input=str(source), output=str(target), model="mlp", mapping={"keys": ["id"], "inputs": {"x": ["f*"]}}
    )
    id = runs.run_id(request, str(target), "")
    began = time.monotonic()
    runs.submit(pool.link, request, id, version="", fingerprint="")
    memory: dict[str, list[float]] = {"runs program": [], "slot": [], "engine": []}
    pids = _pids(pool)
    has_parts = False
    while True:
        view = runs.view(pool.link, id)
        if view.is_final:
            break
        if time.monotonic() - began > LONGEST_S:
            raise RuntimeError(f"run {id} did not end in {LONGEST_S:g} s: {view}")
        if not has_parts:  # from its first part on: what it opens and plans with before is no growth
            has_parts = any(target.parent.glob(f"{target.name}.run-*/part-*"))
        if has_parts:
            for name, pid in pids.items():
                memory[name].append(rss_mb(pid))
        time.sleep(LOOK_S)
    took_s = time.monotonic() - began
    if view.state != "done":
        raise RuntimeError(f"run {id} is {view.state}: {view.error}")
    return Run(took_s, (view.ended_ms - view.started_ms) / 1000, memory)


def _pids(pool: Pool) -> dict[str, int]:
    (state,) = pool.states().values()
    (beat,) = runs.beats(pool.link)
    return {"runs program": beat.pid, "slot": int(state["pid"]), "engine": int(state["engine_pid"])}


def rss_mb(pid: int) -> float:
    """Private memory: the shared slabs would count twice."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def growth(samples: list[float]) -> float | None:
    """Of the last tenth over the first one's; None for fewer than 20 samples."""
    tenth = len(samples) // 10
    return median(samples[-tenth:]) / median(samples[:tenth]) - 1 if tenth >= 2 else None


def require_same(ours: Path, theirs: Path) -> None:
    """Raises RuntimeError when ids, predictions or confidences differ."""
    mine, wanted = pq.read_table(ours), pq.read_table(theirs)
    for name in ("id", "prediction"):
        if not mine[name].combine_chunks().equals(wanted[name].combine_chunks()):
            raise RuntimeError(f"runs: column {name} differs from the bare loop's")
    if not np.allclose(mine["confidence"].to_numpy(), wanted["confidence"].to_numpy(), atol=1e-5):
        raise RuntimeError("runs: confidences differ from the bare loop's")


def measure(folder: Path, rows: int, rounds: int, bodies: str, say: Callable[[str], Any]) -> dict[str, Any]:
    """Bare and ours in turns, in one pool."""
    artifact = build(folder / "mlp", features=FEATURES)
    graph = (folder / "mlp" / "model.onnx").read_bytes()
    source = folder / "input.parquet"
    write_input(source, rows)
    bare_s: list[float] = []
    ours: list[Run] = []
    with running(
        folder / "pool.toml", model="mlp", artifact=artifact.folder, slots=1, retire={"max_jobs": 0}, bodies=bodies
    ) as pool:
        wait_for_program(pool)
        for number in range(rounds):
            bare_s.append(bare_loop(graph, source, folder / "bare.parquet"))
            ours.append(one_run(pool, source, folder / f"ours-{number}.parquet"))
            require_same(folder / f"ours-{number}.parquet", folder / "bare.parquet")
            say(
                f"round {number + 1}: bare {bare_s[-1]:.2f} s, ours {ours[-1].took_s:.2f} s ({ours[-1].worked_s:.2f} s worked)"
            )
        about = report.about(pool.link)
    ratios = [bare / one.took_s for bare, one in zip(bare_s, ours, strict=True)]
    worked = [bare / one.worked_s for bare, one in zip(bare_s, ours, strict=True)]
    grown = {name: growth(ours[-1].memory_mb[name]) for name in ours[-1].memory_mb}
    return about | {
        "rows": rows, "rounds": rounds, "bodies": "Redis" if bodies == "redis" else "/dev/shm", "bare_rows_per_s": rows / median(bare_s), "ratio": median(ratios),
        "ours_rows_per_s": rows / median(one.took_s for one in ours), "ratios": ratios, "ratio_worked": median(worked),
        "growth": grown, "peak_mb": {name: max(samples, default=0) for name, samples in ours[-1].memory_mb.items()},
        "load_1m": machine.load_1m(),
    }  # fmt: skip


def wait_for_program(pool: Pool) -> None:
    """Until the runs program beats and the slot is ready. Raises RuntimeError."""
    deadline = time.monotonic() + 20
    while not runs.beats(pool.link) or not roster.ready(pool.link, pool.model):
        if time.monotonic() > deadline:
            raise RuntimeError("no runs program came up")
        time.sleep(0.05)


def text(figures: dict[str, Any]) -> str:
    """The page."""
    bare_rate, ours_rate = figures["bare_rows_per_s"], figures["ours_rows_per_s"]
    lines = [
        f"bulk run of {figures['rows']} rows x {FEATURES} float32, Parquet to Parquet, one slot, bodies in {figures['bodies']}; {figures['rounds']} rounds in turns",
        f"{figures['machine']}, {figures['cores']} cores; {figures['server']}; {figures['date']}; load {figures['load_1m']:.1f}",
        f"bare loop (read, session.run on {BATCH} rows, write): {report.figure(bare_rate, 0)} rows/s",
        f"penstock run, submit to done:                       {report.figure(ours_rate, 0)} rows/s",
        f"ratio {figures['ratio']:.2f} ({', '.join(f'{one:.2f}' for one in figures['ratios'])}); "
        f"{report.verdict(figures['ratio'], least=WANTED)}; from its first turn on {figures['ratio_worked']:.2f}",
    ]
    for name, grown in figures["growth"].items():
        lines.append(
            f"private memory of the {name}: peak {figures['peak_mb'][name]:.0f} MB, last tenth over first "
            f"{'-' if grown is None else f'{grown:+.1%}'}; {report.verdict(grown, most=WANTED_GROWTH)}"
        )
    return "\n".join(lines)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runs", description="A bulk run beside the bare loop.")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS} rows; writes no results")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--bodies", choices=("shm", "redis"), default="shm", help="where the jobs' rows stand")
    given = parser.parse_args()
    rows, rounds = (QUICK_ROWS, QUICK_ROUNDS) if given.quick else (ROWS, ROUNDS)
    (ROOT / "var").mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=ROOT / "var") as folder,
        tempfile.TemporaryDirectory(prefix="penstock-", dir="/dev/shm") as shm,
    ):
        bodies = shm if given.bodies == "shm" else "redis"
        try:
            figures = measure(
                Path(folder), rows, given.rounds or rounds, bodies, lambda line: print(line, file=sys.stderr)
            )
        except (PenstockError, RuntimeError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(text(figures))
    if not given.quick:
        report.write_text(RESULTS, text(figures))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
