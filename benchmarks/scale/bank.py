"""Some slots of one model on one Redis, as real processes without supervisord. One slot alone is `benchmarks/stand.py`.

Their settings are the defaults but for retirement, which nobody would follow up here, and for the queue's limits, which a
measurement of large backlogs and payloads must not meet.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import machine
from benchmarks.stand import READY_WITHIN_S, ROOT, clean_environment
from broker import keys, roster, spec
from broker.connection import Link
from broker.queue import Queue
from broker.roster import Assignment
from broker.settings import Settings, load
from broker.spec import Limits
from operators import models
from workers.artifact import open_artifact

BEAT_SEEN_S = 1.2  # a beat a second tells how many batches a slot has run
LIMITS = Limits(max_jobs=4_000_000, max_bytes=16 << 30, payload_limit_bytes=8 << 20)


class Bank:
    """Ready slots, the server they stand on, and how far they are."""

    def __init__(self, url: str, settings: Settings, model: str, artifact: Path) -> None:
        self.url = url
        self.model = model
        self.link = Link(url)
        self.link.connect()
        self._settings = settings
        self._artifact = artifact
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def slots(self) -> int:
        """How many run."""
        return len(self._processes)

    def start(self, count: int, *, look: Callable[[], object] = int) -> None:
        """Starts so many more and waits until they are ready, looking all the while. Raises RuntimeError with a slot's log."""
        first = len(self._processes)
        for number in range(first, first + count):
            roster.assign(self.link, self._settings.host, number, Assignment(self.model, str(self._artifact)))
            with self._log(number).open("ab") as output:
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "workers", "--slot", str(number), "--config", self._settings.path],
                        cwd=ROOT, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    )
                )  # fmt: skip
        roster.want(self.link, self._settings.host, self.model, first + count)
        deadline = time.monotonic() + READY_WITHIN_S
        while len(roster.ready(self.link, self.model)) < first + count:
            for number, process in enumerate(self._processes):
                if process.poll() is not None or time.monotonic() > deadline:
                    said = self._log(number).read_text().strip()[-500:]
                    raise RuntimeError(f"slot {number} did not become ready: {said}")
            look()
            time.sleep(0.002)

    def keep(self, count: int) -> None:
        """Drains and ends all but the first `count`."""
        roster.want(self.link, self._settings.host, self.model, count)
        ending = self._processes[count:]
        for process in ending:
            process.send_signal(signal.SIGTERM)
        for process in ending:
            try:
                process.wait(self._settings.slot.drain_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        del self._processes[count:]

    def roles(self) -> dict[str, list[int]]:
        """slot, engine, redis -> their pids."""
        states = [roster.slots(self.link)[self._name(number)] for number in range(self.slots)]
        return {
            "slot": [process.pid for process in self._processes],
            "engine": [int(state["engine_pid"]) for state in states],
            "redis": [machine.server_pid(self.link)],
        }

    def done(self) -> int:
        """Jobs settled since the server began."""
        return int(self.link.call("HGET", keys.counters(self.model), "done") or 0)

    def batches(self) -> tuple[int, int]:
        """(rows, batches) of all slots that run, as their newest beats say; waits for the beats."""
        time.sleep(BEAT_SEEN_S)
        states = roster.slots(self.link)
        mine = [states[self._name(number)] for number in range(self.slots)]
        return sum(int(state["rows"]) for state in mine), sum(int(state["batches"]) for state in mine)

    def close(self) -> None:
        """Ends all slots."""
        self.keep(0)
        self.link.close()

    def _name(self, number: int) -> str:
        return roster.slot_name(self._settings.host, number)

    def _log(self, number: int) -> Path:
        return self._settings.var / f"slot-{number}.log"


@contextlib.contextmanager
def bank(folder: Path, url: str, artifact: Path, slots: int) -> Iterator[Bank]:
    """A bank of `slots`; with 0 the queue is there and takes jobs, and `start` brings the slots later."""
    model = open_artifact(artifact).spec.name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pool.toml"
    file.write_text(
        f'[redis]\nurl = "{url}"\n[pool]\nvar_dir = "{folder}"\nhost = "scale"\n[retire]\nmax_jobs = 0\n'
        f"[queue]\nmax_jobs = {LIMITS.max_jobs}\nmax_bytes = {LIMITS.max_bytes}\n"
        f"payload_limit_bytes = {LIMITS.payload_limit_bytes}\n"
        f'[models.{model}]\nartifact = "{artifact}"\n'
    )
    settings = load(str(file), environ={})
    models.trust_artifact(artifact, settings.trusted)  # built by whoever runs this
    made = Bank(url, settings, model, artifact)
    try:
        spec.publish(made.link, open_artifact(artifact).spec, LIMITS)
        Queue(model, "scale/0.none").ensure_groups(made.link)
        if slots:
            made.start(slots)
        yield made
    finally:
        made.close()


def mine() -> dict[str, list[int]]:
    """The role of a producer that lives in this process."""
    return {"producer": [os.getpid()]}
