"""A whole pool under real supervisord in a folder of its own: what the demo and the retirement storm run on.

The pool is started as `penstock up` starts it and ended as `penstock down` does, also after an error or Ctrl-C; then every
process seen in it must be gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from broker import roster
from broker.connection import Link
from broker.errors import SupervisorError
from broker.settings import Settings, load
from operators import models, pool
from operators.readiness import wait_until_ready
from operators.supervisor import Supervisor, is_alive

READY_WITHIN_S = 90.0
GONE_WITHIN_S = 5.0


class Pool:
    """A pool that is up, and the pids it was ever seen with."""

    def __init__(self, settings: Settings, model: str) -> None:
        self.settings = settings
        self.model = model
        self.link = Link(settings.redis_url_as("admin"))  # the figures name how the server syncs
        self.link.connect()
        self.supervisor = Supervisor(settings)
        self.pids = {self.supervisor.pid(), self.supervisor.redis().pid}
        self.states()

    def states(self) -> dict[str, dict[str, str]]:
        """name -> state of the slots that beat; remembers their pids."""
        states = {name: state for name, state in roster.slots(self.link).items() if state}
        for state in states.values():
            self.pids |= {int(state.get(field) or 0) for field in ("pid", "engine_pid")} - {0}
        return states

    def restarts(self) -> dict[str, int]:
        """reason -> how often a slot ended for it."""
        reasons: Counter[str] = Counter()
        for key, count in roster.restarts(self.link).items():
            reasons[key.rpartition(":")[2]] += count
        return dict(sorted(reasons.items()))

    def fatal(self) -> list[str]:
        """Programs supervisord has given up."""
        programs = [self.supervisor.redis(), *self.supervisor.slots().values()]
        return [program.name for program in programs if program.state == "FATAL"]

    def left(self) -> list[int]:
        """Pids of this pool that still live, some time after its end."""
        deadline = time.monotonic() + GONE_WITHIN_S
        while (alive := sorted(filter(is_alive, self.pids))) and time.monotonic() < deadline:
            time.sleep(0.05)
        return alive


@contextlib.contextmanager
def running(
    file: Path, *, model: str, artifact: Path, slots: int, retire: dict[str, Any], bodies: str = "redis"
) -> Iterator[Pool]:
    """Writes pool.toml to `file` and has the pool up and ready for the block; its state lies in a folder beside it, large bodies
    where `bodies` says.

    That folder is emptied first and removed after a good end; after a bad one it stays, for its logs. Raises PenstockError.
    """
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        del os.environ[name]  # another pool's settings; supervisord would hand them on
    folder = file.with_suffix("")
    limits = ", ".join(f"{key} = {msgspec.json.encode(value).decode()}" for key, value in retire.items())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f'# Written by {__name__}; edits are lost.\n[pool]\nvar_dir = "{folder.name}"\nmost_slots = {slots}\n\n'
        f'[queue]\nbodies = "{bodies}"\n\n'
        f'[models.{model}]\nartifact = "{artifact}"\nslots = {slots}\nretire = {{ {limits} }}\n'
    )
    settings = load(str(file))
    models.trust_artifact(artifact, settings.trusted)  # built by whoever runs this
    pool.down(settings, say=_quiet)  # what a run before this one may have left
    shutil.rmtree(folder, ignore_errors=True)
    started: Pool | None = None
    try:
        changed = pool.up(settings, say=_quiet)
        wait_until_ready(settings, changed.started, timeout_s=READY_WITHIN_S, say=_quiet)
        started = Pool(settings, model)
        yield started
        started.states()
    finally:
        if started is not None:
            started.link.close()
        pool.down(settings, say=_quiet)
    if left := started.left():
        raise SupervisorError(f"processes {left} outlived the pool; end them by pid, and see {folder / 'log'}")
    shutil.rmtree(folder, ignore_errors=True)


def _quiet(text: str) -> None:
    """The pool's own progress is not shown."""
