"""`make bench`: what the pool costs beside the bare Streams loop of the same run. `python -m benchmarks.bench [--quick]`.

Bare and ours take turns on two servers of the same kind; every figure is the median over the rounds, every ratio the median
of the rounds' own ratios. Writes benchmarks/results/latest.json, one flat object. Speeds that miss their mark are shown so;
a lost job, a job answered twice or a pool that fails ends the run with a non-zero exit code.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from benchmarks import bare, files, flood, latency, machine, magika, marks, memory, report, retire
from benchmarks.stand import ROOT, slot
from broker.embedded import temporary_server
from broker.errors import PenstockError
from examples.mlp.build import build
from producer import Producer

FEATURES, HIDDEN = 64, 128
LATEST = Path(__file__).resolve().parent / "results" / "latest.json"
OURS = "ours"
PREFIXES = {"redis-py": "bare_", "raw": "raw_bare_", OURS: ""}  # of the keys in latest.json
Figures = dict[str, Any]


class Size(msgspec.Struct, frozen=True):
    """How much is measured."""

    rounds: int
    flood_jobs: int
    latency_jobs: int
    memory_jobs: int
    magika_rounds: int
    magika_files: int


FULL = Size(rounds=5, flood_jobs=40_000, latency_jobs=2_000, memory_jobs=40_000, magika_rounds=5, magika_files=512)
QUICK = Size(rounds=3, flood_jobs=40_000, latency_jobs=1_000, memory_jobs=20_000, magika_rounds=2, magika_files=256)


def streams(folder: Path, size: Size) -> Figures:
    """Flood, one in flight and memory, on the MLP."""
    artifact = folder / "mlp"
    build(artifact, features=FEATURES, hidden=HIDDEN)
    x = flood.rows(size.flood_jobs, FEATURES)
    few = x[: size.latency_jobs]
    with temporary_server(folder / "memory") as url:
        held = memory.measure(folder / "memory", url, artifact, size.memory_jobs)
    with contextlib.ExitStack() as stack:
        ours_url = stack.enter_context(temporary_server(folder / "ours"))
        loops = {kind: _loop(stack, folder, kind, artifact) for kind in bare.CLIENTS}
        stand = stack.enter_context(slot(folder / "ours", ours_url, "mlp", artifact))
        producer = stack.enter_context(Producer(ours_url))
        about = report.about(loops["raw"][0].link)

        def floods_once() -> dict[str, flood.Flood]:
            theirs = {kind: flood.through_the_bare_loop(loop, pid, x) for kind, (loop, pid) in loops.items()}
            return theirs | {OURS: flood.through_penstock(stand, producer, x)}

        def latencies_once() -> dict[str, latency.Latency]:
            theirs = {kind: latency.through_the_bare_loop(loop, few) for kind, (loop, _) in loops.items()}
            return theirs | {OURS: latency.through_penstock(producer, "mlp", few)}

        floods_once()  # warm-up
        rows, batches = stand.batches()
        floods = [floods_once() for _ in range(size.rounds)]
        more_rows, more_batches = stand.batches()
        latencies = [latencies_once() for _ in range(size.rounds)]
    return {
        **_of_floods(floods, size.flood_jobs),
        "flood_mean_batch": round((more_rows - rows) / (more_batches - batches), 1),
        **_of_latencies(latencies),
        "queued_overhead_bytes": round(held.queued_overhead_bytes, 1),
        "finished_overhead_bytes": round(held.finished_overhead_bytes, 1),
        **about,
    }


def _loop(stack: contextlib.ExitStack, folder: Path, kind: str, artifact: Path) -> tuple[bare.Producer, int]:
    """A bare loop on a server of its own, and its worker's pid."""
    url = stack.enter_context(temporary_server(folder / kind))
    pid = stack.enter_context(bare.worker(url, kind, artifact / "model.onnx", FEATURES))
    return bare.Producer(url, kind), pid


def _of_floods(rounds: Sequence[dict[str, flood.Flood]], jobs: int) -> Figures:
    ratios = [one[OURS].jobs_per_s / one["redis-py"].jobs_per_s for one in rounds]
    sides = {kind: [one[kind] for one in rounds] for kind in PREFIXES}
    ours = sides[OURS]
    found: Figures = {
        "flood_jobs": jobs,
        "flood_ratio": round(median(ratios), 3),
        "flood_ratio_lowest": round(min(ratios), 3),
        "flood_ratio_highest": round(max(ratios), 3),
        "flood_ratio_to_raw": round(median(one[OURS].jobs_per_s / one["raw"].jobs_per_s for one in rounds), 3),
        "flood_jobs_per_s": round(median(one.jobs_per_s for one in ours)),
        "bare_jobs_per_s": round(median(one.jobs_per_s for one in sides["redis-py"])),
        "raw_bare_jobs_per_s": round(median(one.jobs_per_s for one in sides["raw"])),
        "flood_submit_jobs_per_s": round(median(jobs / one.submit_s for one in ours)),
        "decode_us_per_job": round(median(one.decode_s for one in ours) / jobs * 1e6, 2),
        "redis_commands_per_job": round(median(one.commands for one in ours), 2),
        "bare_redis_commands_per_job": round(median(one.commands for one in sides["redis-py"]), 2),
    }
    for kind, side in sides.items():
        for name in side[0].cpu_us:
            found[f"{PREFIXES[kind]}cpu_us_per_job_{name}"] = round(median(one.cpu_us[name] for one in side), 2)
    return found


def _of_latencies(rounds: Sequence[dict[str, latency.Latency]]) -> Figures:
    found: Figures = {
        "one_in_flight_p50_ratio": round(median(one[OURS].p50_ms / one["redis-py"].p50_ms for one in rounds), 3),
        "one_in_flight_p50_ratio_to_raw": round(median(one[OURS].p50_ms / one["raw"].p50_ms for one in rounds), 3),
    }
    for kind, prefix in PREFIXES.items():
        found[f"{prefix}one_in_flight_p50_ms"] = round(median(one[kind].p50_ms for one in rounds), 4)
        found[f"{prefix}one_in_flight_p99_ms"] = round(median(one[kind].p99_ms for one in rounds), 4)
    return found


def real_files(folder: Path, size: Size) -> Figures:
    """Magika through one slot against the bare session; labels must agree."""
    try:
        artifact = magika.build()
    except magika.Missing as missing:
        print(f"bench: {missing}; magika is left out", file=sys.stderr)
        return {}
    samples = files.find(size.magika_files)
    loop = magika.BareLoop(artifact)
    bares: dict[int, list[magika.Speed]] = {batch: [] for batch in magika.BATCHES}
    ours: list[magika.Speed] = []
    with (
        temporary_server(folder / "magika") as url,
        slot(folder / "magika", url, "magika", artifact) as stand,
        Producer(url) as producer,
    ):
        magika.through_penstock(stand, producer, samples[:64])  # warm-up
        for batch in magika.BATCHES:
            loop.measure(samples[:64], batch)
        for _ in range(size.magika_rounds):
            for batch, speeds in bares.items():
                speeds.append(loop.measure(samples, batch))
            ours.append(magika.through_penstock(stand, producer, samples))
    speeds_at = {batch: median(one.files_per_s for one in speeds) for batch, speeds in bares.items()}
    fastest = max(speeds_at, key=lambda batch: speeds_at[batch])
    pairs = list(zip(bares[fastest], ours, strict=True))
    differing = max(
        sum(a != b for a, b in zip(one.labels, mine.labels, strict=True)) for one, mine in pairs
    )  # other batch sizes round otherwise: a file between two labels may fall to either side
    return {
        "magika_ratio": round(median(mine.files_per_s / one.files_per_s for one, mine in pairs), 3),
        "magika_files_per_s": round(median(mine.files_per_s for mine in ours), 1),
        "magika_mean_batch": round(median(mine.mean_batch for mine in ours), 1),
        **{f"bare_magika_{batch}_files_per_s": round(speed, 1) for batch, speed in speeds_at.items()},
        "magika_files": len(samples),
        "magika_labels_differing": differing,
    }


def retirements(folder: Path) -> Figures:
    """The storm."""
    build(folder / "storm-mlp", features=FEATURES, hidden=HIDDEN)
    storm = retire.storm(folder / "storm.toml", folder / "storm-mlp", FEATURES)
    return {
        **storm.about,
        "retire_server": storm.about["server"],
        "retirements": storm.retirements,
        "ready_never_zero": storm.least_ready > 0,
        "ready_least": storm.least_ready,
        "ready_looks": storm.looks,
        "retire_jobs": storm.jobs,
        "retire_jobs_per_s": round(storm.jobs_per_s, 1),
        "retire_lost": storm.lost,
        "retire_twice": storm.twice,
        "retire_failed": storm.failed,
        "retire_fatal": len(storm.fatal),
        "retire_restarts": storm.restarts,
    }


def measure(parts: Sequence[Callable[[Path], Figures]]) -> Figures:
    """All parts, in a folder of var/ that goes with them."""
    (ROOT / "var").mkdir(exist_ok=True)
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=ROOT / "var") as folder:
        for part in parts:
            figures = part(Path(folder)) | figures  # what the first part says of the server stands
    figures["load_1m"] = round(machine.load_1m(), 2)
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds and no retirement storm: under a minute")
    parser.add_argument("--retire", action="store_true", help="the retirement storm alone; writes results/retire.json")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all that was started is ended then, too
    size = QUICK if options.quick else FULL
    everything: list[Callable[[Path], Figures]] = [
        lambda folder: streams(folder, size),
        lambda folder: real_files(folder, size),
    ]
    parts = [retirements] if options.retire else everything if options.quick else [*everything, retirements]
    try:
        figures = measure(parts)
    except (PenstockError, RuntimeError, TimeoutError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    figures |= {"is_quick": options.quick, "rounds": size.rounds}
    report.write(LATEST.with_name("retire.json") if options.retire else LATEST, figures)
    print(marks.table(figures))
    is_broken = any(figures.get(name) for name in marks.MUST_BE_ZERO) or figures.get("ready_never_zero") is False
    return int(is_broken)


if __name__ == "__main__":
    sys.exit(main())
