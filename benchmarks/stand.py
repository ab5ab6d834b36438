"""One slot as a real process on an embedded Redis, without supervisord: what most figures are taken on.

The settings are the defaults (results stored, timings on), but for `retire.max_jobs`: a slot that retires in the middle of a
flood is what `retire` measures, and nobody would start it again here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from broker import roster
from broker.connection import Link
from broker.roster import Assignment
from broker.settings import Settings, load
from operators import models

ROOT = Path(__file__).resolve().parent.parent
READY_WITHIN_S = 60.0


@dataclass(frozen=True)
class Work:
    """Rows and batches so far; `padded_rows` is worked out from the share of padding the slot tells, four digits of it."""

    rows: int
    batches: int
    padded_rows: float

    def mean_batch(self, later: Work) -> float:
        """Rows a batch between the two."""
        return (later.rows - self.rows) / max(1, later.batches - self.batches)

    def waste(self, later: Work) -> float:
        """The share of forwarded rows that were padding, in percent, between the two."""
        padded = later.padded_rows - self.padded_rows
        return max(0.0, 100 * (1 - (later.rows - self.rows) / padded)) if padded else 0.0


@dataclass(frozen=True)
class Stand:
    """A ready slot: its Redis, and the pids whose CPU time counts."""

    url: str
    model: str
    name: str
    slot_pid: int
    engine_pid: int
    link: Link

    def batches(self) -> tuple[int, int]:
        """(rows, batches) the slot has run, as its newest beat says; waits for the beat."""
        work = self.work()
        return work.rows, work.batches

    def work(self) -> Work:
        """What the slot has run, as its newest beat says; waits for the beat."""
        time.sleep(1.2)
        state = roster.slots(self.link)[self.name]
        rows = int(state["rows"])
        return Work(rows, int(state["batches"]), rows / (1 - float(state["padding"])))


def settings_in(folder: Path, url: str, model: str, artifact: Path) -> Settings:
    """Writes a pool.toml into `folder` and reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pool.toml"
    file.write_text(
        f'[redis]\nurl = "{url}"\n[pool]\nvar_dir = "{folder}"\nhost = "bench"\n[retire]\nmax_jobs = 0\n'
        f'[models.{model}]\nartifact = "{artifact}"\n'
    )
    settings = load(str(file), environ={})
    models.trust_artifact(artifact, settings.trusted)  # built by whoever runs this
    return settings


@contextlib.contextmanager
def slot(folder: Path, url: str, model: str, artifact: Path) -> Iterator[Stand]:
    """Runs `python -m workers --slot 0` until the block ends; it drains then. Raises RuntimeError with its log."""
    settings = settings_in(folder, url, model, artifact)
    link = Link(url)
    link.connect()
    roster.want(link, settings.host, model, 1)
    roster.assign(link, settings.host, 0, Assignment(model, str(artifact)))
    log = folder / "slot.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers", "--slot", "0", "--config", settings.path],
            cwd=ROOT, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        name = roster.slot_name(settings.host, 0)
        deadline = time.monotonic() + READY_WITHIN_S
        while name not in roster.ready(link, model):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the slot did not become ready: {log.read_text().strip()[-500:]}")
            time.sleep(0.02)
        engine_pid = int(roster.slots(link)[name]["engine_pid"])
        yield Stand(url, model, name, process.pid, engine_pid, link)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(settings.slot.drain_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        link.close()


def clean_environment() -> dict[str, str]:
    """This process's environment without another pool's settings, finding the packages of this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
