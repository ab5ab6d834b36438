"""`python -m benchmarks.overlap [--retirements 50]`: the longest time without a ready slot while one slot retires again and again.

With `overlap` on it must be 0; off it is about one load time. Under real supervisord, on a tiny model, with jobs coming in.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import flood
from benchmarks.pools import Pool, running
from benchmarks.retire import collect
from benchmarks.stand import ROOT
from broker import roster
from broker.connection import LOST, Link
from broker.errors import PenstockError
from examples.mlp.build import build
from producer import Handle, Producer

FEATURES = 64
RETIRE: dict[str, Any] = {"max_jobs": 100, "jitter": 0.0, "min_life_s": 0.0, "min_life_loads": 0.0}
JOBS_PER_TICK, TICK_S = 10, 0.05
LOOK_EVERY_S = 0.005
LONGEST_S = 20.0  # per retirement, before it is called a failure


class Dip(msgspec.Struct, frozen=True):
    """What came of it. `longest_s` is the longest time in a row in which no look found a ready slot."""

    overlap: bool
    retirements: int
    longest_s: float
    looks: int
    took_s: float
    jobs: int
    lost: int


class Gap:
    """Looks for a ready slot every few ms, from a thread, and keeps the longest time without one."""

    def __init__(self, url: str, model: str) -> None:
        self.longest_s = 0.0
        self.looks = 0
        self._link = Link(url)
        self._model = model
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gap", daemon=True)

    def __enter__(self) -> Gap:
        self._link.connect()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(10)
        self._link.close()

    def _watch(self) -> None:
        gap_since: float | None = None
        while not self._is_over.wait(LOOK_EVERY_S):
            try:
                is_ready = bool(roster.ready(self._link, self._model))
            except LOST:
                self.longest_s = float("inf")  # a look that failed may have missed anything
                return
            now = time.monotonic()
            self.looks += 1
            if is_ready:
                gap_since = None
            else:
                gap_since = now if gap_since is None else gap_since
                self.longest_s = max(self.longest_s, now - gap_since, LOOK_EVERY_S)


def measure(folder: Path, artifact: Path, *, overlap: bool, retirements: int) -> Dip:
    """One pool, one slot, so many retirements. Raises PenstockError."""
    file = folder / f"overlap-{'on' if overlap else 'off'}.toml"
    with running(file, model="mlp", artifact=artifact, slots=1, retire=RETIRE | {"overlap": overlap}) as pool:
        with Gap(pool.settings.redis_url_as("operator"), "mlp") as gap, Producer(pool.settings.redis_url) as producer:
            began = time.monotonic()
            handles = _feed(pool, producer, retirements)
            took_s = time.monotonic() - began
            answered, _ = collect(handles)
        return Dip(
            overlap=overlap,
            retirements=pool.restarts().get("max_jobs", 0),
            longest_s=round(gap.longest_s, 3),
            looks=gap.looks,
            took_s=round(took_s, 1),
            jobs=len(handles),
            lost=len(handles) - answered,
        )


def _feed(pool: Pool, producer: Producer, retirements: int) -> list[Handle]:
    """Jobs at a steady rate until the slot has retired so often."""
    handles: list[Handle] = []
    x = flood.rows(JOBS_PER_TICK, FEATURES)
    deadline = time.monotonic() + LONGEST_S * retirements
    while pool.restarts().get("max_jobs", 0) < retirements:
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{pool.restarts()} after {LONGEST_S * retirements:g} s, wanted {retirements} retirements"
            )
        handles += producer.submit_many("mlp", x, wait_s=10)
        pool.states()
        time.sleep(TICK_S)
    return handles


def main() -> int:
    """The command; exit code 1 where overlap left a gap or a job was lost."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overlap", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--retirements", type=int, default=50)
    options = parser.parse_args()
    (ROOT / "var").mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="overlap-", dir=ROOT / "var") as folder:
            artifact = Path(folder) / "mlp"
            build(artifact, features=FEATURES, hidden=128)
            dips = [
                measure(Path(folder), artifact, overlap=is_on, retirements=options.retirements)
                for is_on in (True, False)
            ]
    except (PenstockError, RuntimeError) as error:
        print(f"overlap: {error}", file=sys.stderr)
        return 1
    print(msgspec.json.format(msgspec.json.encode(dips), indent=2).decode())
    return int(dips[0].longest_s > 0 or any(dip.lost for dip in dips))


if __name__ == "__main__":
    sys.exit(main())
