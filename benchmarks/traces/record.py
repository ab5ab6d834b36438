"""Records traces of a real slot under real clients: `python -m benchmarks.traces.record`, two minutes, into recorded/*.json.

Per model the loads are shares of what 64 closed clients of one process do on it. mlp's forward is next to nothing; sleeper and wide
sleep 5 ms for up to 16 and 64 rows, so that client and slot do not fight for cores; magika and minilm compute on one core.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import arrivals, files, flood, magika, minilm, report, sleeper
from benchmarks.stand import slot
from benchmarks.traces.recorded import Sender, Trace, only_dims, save
from benchmarks.traces.senders import Clients, beside
from broker import timetable
from broker.connection import Link
from broker.embedded import temporary_server
from broker.roster import Assignment
from examples.minilm import build as build_minilm
from examples.mlp.build import build as build_mlp
from producer import AsyncProducer
from workers.artifact import open_artifact

CLIENTS = 64
FEW = (2, 8)
MOST_JOBS, MOST_S, FEW_S = 3000, 6.0, 4.0
SMALL_BYTES = 1 << 16  # what travels in the job itself: batching is recorded here, not the way of large bodies
DEVICE = f"bench/{Assignment('', '').device}"  # the stand's host, and what its slot is assigned


class Kind(msgspec.Struct, frozen=True):
    """A model to record on. `burst` low jobs come at once; `deadline_ms` is what a user of it might set; 0: no such trace."""

    name: str
    build: Callable[[Path], Path]
    rows: Callable[[], Sequence[Any]]
    burst: int
    deadline_ms: float


def _mlp(folder: Path) -> Path:
    build_mlp(folder, features=sleeper.FEATURES, hidden=128)
    return folder


def _minilm(folder: Path) -> Path:
    weights = build_minilm.random_weights(seed=0)
    return build_minilm.build(folder, weights, tokens=(minilm.TOKENS,), max_rows=minilm.MAX_ROWS).folder


def _small_files() -> Sequence[Any]:
    found = [one.content for one in files.find(1024) if len(one.content) <= SMALL_BYTES]
    random.Random(1).shuffle(found)
    return found


KINDS = (
    Kind("mlp", _mlp, lambda: list(flood.rows(1024, sleeper.FEATURES)), 1024, 0.0),
    Kind(
        "sleeper", lambda folder: sleeper.build(folder, sleep_ms=5.0, max_rows=16),
        lambda: list(flood.rows(1024, sleeper.FEATURES)), 256, 15.0,
    ),
    Kind(
        "wide", lambda folder: sleeper.build(folder, sleep_ms=5.0, max_rows=64, name="wide"),
        lambda: list(flood.rows(1024, sleeper.FEATURES)), 256, 15.0,
    ),
    Kind("magika", lambda folder: magika.build(), _small_files, 64, 60.0),
    Kind("minilm", _minilm, lambda: minilm.sentences(512), 32, 150.0),
)  # fmt: skip


class Take(msgspec.Struct, frozen=True):
    """One recording before T is known."""

    name: str
    what: str
    senders: list[Sender]


async def takes(url: str, kind: Kind) -> list[Take]:
    """All of one model, one after another on the same slot."""
    async with AsyncProducer(url) as producer:
        clients = Clients(producer, kind.name, kind.rows())
        warm = await clients.closed(CLIENTS, 1.5, MOST_JOBS)  # connects, and fills T
        closed = await clients.closed(CLIENTS, MOST_S, MOST_JOBS)
        most = max(_jobs_per_s(warm), _jobs_per_s(closed))  # the one a neighbour slowed less
        found = [Take("closed-64", f"{CLIENTS} asyncio clients, each waiting for its answer", closed)]
        for few in FEW:
            what = f"{few} asyncio clients, each waiting for its answer"
            found.append(Take(f"closed-{few}", what, await clients.closed(few, FEW_S, MOST_JOBS)))
        for load in (0.5, 0.8):
            due_s = _due(load * most)
            what = f"Poisson, {load * most:.0f} jobs/s, {load:.0%} of what {CLIENTS} closed clients do"
            found.append(Take(f"poisson-{load * 100:.0f}", what, [await clients.open(due_s)]))
        every_s = kind.burst / (0.7 * most)
        seconds = min(MOST_S, MOST_JOBS / (0.75 * most))
        both = await beside(clients, low_jobs=kind.burst, every_s=every_s, high_per_s=0.05 * most, seconds=seconds)
        what = (
            f"bursts of {kind.burst} low jobs every {every_s * 1e3:.0f} ms beside {0.05 * most:.0f} single high ones/s"
        )
        found.append(Take("bursts", what, both))
        if kind.deadline_ms:
            due_s = _due(1.2 * most)
            what = f"Poisson, {1.2 * most:.0f} jobs/s, 120%, each with a deadline of {kind.deadline_ms:.0f} ms"
            found.append(Take("deadlines-120", what, [await clients.open(due_s, deadline_ms=kind.deadline_ms)]))
    return found


def _jobs_per_s(closed: list[Sender]) -> float:
    took_s = max(sum(one.gaps_ms) + sum(ms or 0.0 for ms in one.took_ms) for one in closed) / 1e3
    return sum(len(one.gaps_ms) for one in closed) / took_s


def _due(per_s: float) -> list[float]:
    due_s: list[float] = arrivals.schedule(per_s, min(MOST_S, MOST_JOBS / per_s), seed=4).tolist()
    return due_s


def record(folder: Path, kind: Kind) -> Iterator[Trace]:
    """Every trace of one model, with the T its slot left in Redis when it drained."""
    artifact = kind.build(folder / kind.name)
    with temporary_server(folder / "redis") as url:
        with (
            slot(folder / "redis", url, kind.name, artifact) as stand,
            asyncio.Runner(loop_factory=arrivals._precise_loop) as runner,
        ):
            found = runner.run(takes(url, kind))
            about = report.about(stand.link)
        link = Link(url)
        link.connect()
        times = only_dims(timetable.load(link, kind.name, open_artifact(artifact).digest, DEVICE))
        link.close()
    for take in found:
        yield Trace(
            name=f"{kind.name}-{take.name}", what=take.what, machine=about["machine"], cores=about["cores"], date=about["date"],
            server=about["server"], times=times, senders=take.senders,
        )  # fmt: skip


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.traces.record", description=__doc__)
    parser.add_argument("--only", choices=[kind.name for kind in KINDS], help="this model")
    only = parser.parse_args().only
    for kind in KINDS:
        if only in (None, kind.name):
            try:
                with tempfile.TemporaryDirectory() as folder:
                    for trace in record(Path(folder), kind):
                        print(f"{save(trace).name}: {trace.jobs} jobs, {trace.what}", flush=True)
            except magika.Missing as missing:
                print(f"record: {missing}; {kind.name} is left out", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
