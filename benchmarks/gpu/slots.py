"""Slots on a device, real processes on an embedded Redis, started again as supervisord would. For figures, not for service."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.stand import ROOT, clean_environment
from broker import roster
from broker.connection import Link
from broker.roster import Assignment
from broker.settings import load
from operators import models

READY_WITHIN_S = 300.0
LOOK_S = 0.02


class Slots:
    """Running slots of one model. `exits` counts the lives that ended while they ran."""

    def __init__(self, url: str, model: str, link: Link) -> None:
        self.url = url
        self.model = model
        self.link = link
        self.exits = 0


@contextlib.contextmanager
def running(
    folder: Path, url: str, artifact: Path, *, model: str, device: str, slots: int, max_rows: int, retire_jobs: int = 0,
    memory_fraction: float = 0.0,
) -> Iterator[Slots]:  # fmt: skip
    """`slots` ready slots until the block ends; they drain then. Raises RuntimeError with the log of one that does not start."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pool.toml"
    file.write_text(
        f'[redis]\nurl = "{url}"\n[pool]\nvar_dir = "{folder}"\nhost = "bench"\n'
        f"[retire]\nmax_jobs = {retire_jobs}\nmin_life_s = 0.0\nmin_life_loads = 0.0\n"
        f'[models.{model}]\nartifact = "{artifact}"\nslots = {slots}\ndevice = "{device}"\nmax_rows = {max_rows}\n'
        f"memory_fraction = {memory_fraction}\n"
    )
    settings = load(str(file), environ={})
    models.trust_artifact(artifact, settings.trusted)  # built by whoever runs this
    link = Link(url)
    link.connect()
    roster.want(link, settings.host, model, slots)
    for number in range(slots):
        roster.assign(link, settings.host, number, Assignment(model, str(artifact), device))
    crew = _Crew(folder, file, slots)
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while len(roster.ready(link, model)) < slots:
            if crew.exits or time.monotonic() > deadline:
                raise RuntimeError(f"a slot on {device} did not become ready: {crew.log()}")
            time.sleep(LOOK_S)
        made = Slots(url, model, link)
        crew.tell(made)
        yield made
    finally:
        crew.end(settings.slot.drain_s)
        link.close()


class _Crew:
    """The processes, and a thread that starts again what ended."""

    def __init__(self, folder: Path, file: Path, slots: int) -> None:
        self.exits = 0
        self._folder = folder
        self._file = file
        self._told: Slots | None = None
        self._is_over = threading.Event()
        self._processes = {number: self._start(number) for number in range(slots)}
        self._thread = threading.Thread(target=self._watch, name="crew", daemon=True)
        self._thread.start()

    def tell(self, slots: Slots) -> None:
        self._told = slots

    def log(self) -> str:
        logs = sorted(self._folder.glob("slot-*.log"))
        return " | ".join(log.read_text().strip()[-400:] for log in logs if log.stat().st_size)

    def end(self, drain_s: float) -> None:
        self._is_over.set()
        self._thread.join(10)
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(drain_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        with (self._folder / f"slot-{number}.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "workers", "--slot", str(number), "--config", str(self._file)],
                cwd=ROOT, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    def _watch(self) -> None:
        while not self._is_over.wait(LOOK_S):
            for number, process in self._processes.items():
                if process.poll() is not None and not self._is_over.is_set():
                    self.exits += 1
                    if self._told is not None:
                        self._told.exits += 1
                    self._processes[number] = self._start(number)
