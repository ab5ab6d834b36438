"""The retirement storm: two slots that retire every 500 jobs while 20 000 jobs trickle in, under real supervisord.

Asked of it: at least 36 retirements, never a moment with no ready slot, nothing lost, nothing twice, no process given up.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import flood, report
from benchmarks.ledger import Ledger
from benchmarks.pools import Pool, running
from benchmarks.sizes import Size
from benchmarks.spread import Figures
from broker import roster
from broker.connection import LOST, Link
from broker.errors import JobFailed, ResultExpired, ResultTimeout
from examples.mlp.build import build
from producer import Handle, Producer

FEATURES, HIDDEN = 64, 128
JOBS = 20_000
# At most, and below the 400 asked for: while one slot restarts, the other passes its limit by as much as comes in.
JOBS_PER_S = 100  # at 200 a slot that is due waits so often for the other to start again that 35 to 37 came out
TICK_S = 0.05
LOOK_EVERY_S = 0.02
RETIRE = {"max_jobs": 500, "jitter": 0.1, "min_life_s": 0.0, "min_life_loads": 0.0}
RESULT_WITHIN_S = 30.0


class Storm(msgspec.Struct, frozen=True):
    """What came of it. `least_ready` is the lowest number of ready slots in `looks` looks."""

    jobs: int
    jobs_per_s: float
    retirements: int
    least_ready: int
    looks: int
    lost: int
    twice: int
    failed: int
    fatal: list[str]
    restarts: dict[str, int]
    about: dict[str, Any]  # machine and server, as in `report.about`


class Watch:
    """Looks at the number of ready slots every 20 ms, from a thread."""

    def __init__(self, url: str, model: str) -> None:
        self.counts: list[int] = []
        self._link = Link(url)
        self._model = model
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._link.connect()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(10)
        self._link.close()

    def _look(self) -> None:
        while not self._is_over.wait(LOOK_EVERY_S):
            try:
                self.counts.append(len(roster.ready(self._link, self._model)))
            except LOST:
                self.counts.append(0)
                return


def measure(folder: Path, size: Size, raw: Figures) -> Figures:
    """The storm as flat keys; its length is the same for every size."""
    build(folder / "storm-mlp", features=FEATURES, hidden=HIDDEN)
    found = storm(folder / "storm.toml", folder / "storm-mlp", FEATURES)
    raw["retire"] = found
    return {
        **found.about,
        "retire_server": found.about["server"],
        "retirements": found.retirements,
        "ready_never_zero": found.least_ready > 0,
        "ready_least": found.least_ready,
        "ready_looks": found.looks,
        "retire_jobs": found.jobs,
        "retire_jobs_per_s": round(found.jobs_per_s, 1),
        "retire_lost": found.lost,
        "retire_twice": found.twice,
        "retire_failed": found.failed,
        "retire_fatal": len(found.fatal),
        "retire_restarts": found.restarts,
    }


def storm(file: Path, artifact: Path, features: int, *, jobs: int = JOBS) -> Storm:
    """Runs it on a pool of its own, written to `file`. Raises PenstockError when the pool cannot be started."""
    x = flood.rows(jobs, features)
    with running(file, model="mlp", artifact=artifact, slots=2, retire=RETIRE) as pool:
        ledger = Ledger(pool.settings.redis_url_as("admin"), "mlp")
        ledger.start()
        with (
            Watch(pool.settings.redis_url_as("operator"), "mlp") as watch,
            Producer(pool.settings.redis_url) as producer,
        ):
            started = time.monotonic()
            handles = feed(producer, x)
            took_s = time.monotonic() - started
            answered, failed = collect(handles)
        ledger.stop()
        pool.states()
        return _told(pool, ledger, watch, jobs=jobs, took_s=took_s, answered=answered, failed=failed)


def feed(producer: Producer, x: flood.NDArray[flood.np.float32]) -> list[Handle]:
    """Submits all rows, a few every tick, and never catches up: the rate is a ceiling."""
    handles: list[Handle] = []
    part = max(1, int(JOBS_PER_S * TICK_S))
    due = time.monotonic()
    for at in range(0, len(x), part):
        handles += producer.submit_many("mlp", x[at : at + part], wait_s=10)
        due = max(due + TICK_S, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    return handles


def collect(handles: list[Handle]) -> tuple[int, int]:
    """(jobs answered, those of them that failed)."""
    answered = failed = 0
    for handle in handles:
        try:
            handle.result(RESULT_WITHIN_S)
        except JobFailed:
            failed += 1
        except (ResultTimeout, ResultExpired):
            continue
        answered += 1
    return answered, failed


def _told(pool: Pool, ledger: Ledger, watch: Watch, *, jobs: int, took_s: float, answered: int, failed: int) -> Storm:
    restarts = pool.restarts()
    if ledger.is_broken or len(ledger.writes) != answered:
        raise RuntimeError(f"the ledger counted results of {len(ledger.writes)} jobs, {answered} were answered")
    return Storm(
        jobs=jobs,
        jobs_per_s=jobs / took_s,
        retirements=restarts.get("max_jobs", 0),
        least_ready=min(watch.counts),
        looks=len(watch.counts),
        lost=jobs - answered,
        twice=ledger.twice(),
        failed=failed,
        fatal=pool.fatal(),
        restarts=restarts,
        about=report.about(pool.link),
    )
