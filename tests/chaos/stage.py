"""Where a case plays: a Redis of our own, a real supervisord with real slots and the agent, and a fake model in each engine.

Leases and beats are short, so that what takes minutes in a pool takes seconds here. The processes are the product's own.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from broker import keys, roster
from broker.connection import LOST, Link
from broker.errors import RedisUnavailable
from broker.messages import LANES
from broker.settings import Settings, load
from operators import pool, readiness
from operators.supervisor import Supervisor
from tests.chaos import fake, slot
from tests.chaos.server import Server

HOST = "stage"
LEASE_S = 1.5
READY_WITHIN_S = 60.0
SLOT = {
    "lease_s": LEASE_S, "beat_s": 0.25, "block_ms": 200, "drain_s": 5.0, "hang_floor_s": 1.0, "load_timeout_s": 30.0,
}  # fmt: skip
FINAL = ("done", "failed", "dead", "expired", "cancelled")


class Books(msgspec.Struct, frozen=True):
    """What Redis itself counts of the model's jobs."""

    submitted: int
    ended: dict[str, int]
    depth: int
    delayed: int
    claimed: int
    bytes: int

    @property
    def is_empty(self) -> bool:
        return not (self.depth or self.delayed or self.claimed)


class Stage:
    """A running pool. `slots` is how many it was started with."""

    def __init__(self, settings: Settings, server: Server | None, folder: Path, slots: int) -> None:
        self.settings = settings
        self.server = server
        self.folder = folder
        self.slots = slots
        self.url = settings.redis_url
        self.faults = folder / "faults"
        self.executions = folder / "executions"
        self.clock = folder / "clock"
        self.supervisor = Supervisor(settings)
        self._link = Link(settings.redis_url_as("admin"))

    # --- looking ------------------------------------------------------------------------------

    def call(self, *command: Any) -> Any:
        """One command, over a connection that is made again when it was lost."""
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                if self._link.fileno() < 0:
                    self._link.connect()
                return self._link.call(*command)
            except (*LOST, RedisUnavailable):
                self._link.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    @property
    def link(self) -> Link:
        """A link that answered just now."""
        self.call("PING")
        return self._link

    def states(self) -> dict[str, dict[str, str]]:
        """slot -> what it says of itself, for those that beat."""
        return {name: state for name, state in roster.slots(self.link).items() if state}

    def ready(self) -> dict[str, dict[str, str]]:
        """slot -> state, for those that are ready now."""
        names = set(roster.ready(self.link, fake.MODEL))
        return {name: state for name, state in self.states().items() if name in names}

    def books(self) -> Books:
        link = self.link
        raw = link.call("HGETALL", keys.counters(fake.MODEL))
        counted = {raw[at].decode(): int(float(raw[at + 1])) for at in range(0, len(raw), 2)}
        lanes = [keys.lane(fake.MODEL, lane) for lane in LANES]
        claimed = link.call_all([("XPENDING", lane, keys.GROUP) for lane in lanes])
        return Books(
            submitted=counted.get("submitted", 0),
            ended={state: counted.get(state, 0) for state in FINAL},
            depth=sum(link.call_all([("XLEN", lane) for lane in lanes])),
            delayed=link.call("ZCARD", keys.delayed(fake.MODEL)),
            claimed=sum(reply[0] for reply in claimed if isinstance(reply, list)),
            bytes=counted.get("bytes", 0),
        )

    # --- waiting ------------------------------------------------------------------------------

    def wait_ready(self, count: int, within_s: float = READY_WITHIN_S) -> dict[str, dict[str, str]]:
        """Until so many slots are ready, exactly."""
        deadline = time.monotonic() + within_s
        while len(found := self.ready()) != count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(found)} slots are ready, {count} were awaited; logs in {self.folder}")
            time.sleep(0.02)
        return found

    def wait_replaced(self, name: str, incarnation: str, within_s: float = READY_WITHIN_S) -> float:
        """Until the slot is ready in another life; how long its model took to load, in seconds."""
        deadline = time.monotonic() + within_s
        while True:
            state = self.ready().get(name)
            if state is not None and state["incarnation"] != incarnation:
                return float(state["load_s"])
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not come back; logs in {self.folder}")
            time.sleep(0.01)

    def wait_empty(self, within_s: float = READY_WITHIN_S) -> Books:
        """Until nothing waits, is delayed or is claimed; what the books say then."""
        deadline = time.monotonic() + within_s
        while not (books := self.books()).is_empty and time.monotonic() < deadline:
            time.sleep(0.02)
        return books

    def fatal(self) -> list[str]:
        """Programs supervisord has given up; the promise is: none."""
        return [program.name for program in self.supervisor.slots().values() if program.state == "FATAL"]

    def up(self) -> None:
        """Starts what is not running."""
        pool.up(self.settings, say=_quiet)

    def close(self) -> None:
        self._link.close()


@contextlib.contextmanager
def staged(
    *,
    fsync: str = "no",
    slots: int = 2,
    most_slots: int = 5,
    forward_ms: float = 2.0,
    url: str = "",
    executions: Path | None = None,
    wrapper: str = "",
    **sections: dict[str, Any],
) -> Iterator[Stage]:
    """A stage for the block. `sections` override those of pool.toml; `url` takes a server that runs already, `executions` another
    stage's file, `wrapper` is put in front of the slots' command."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    server = None if url else Server(folder / "redis", fsync=fsync)
    command = f"{shlex.quote(sys.executable)} -m tests.chaos.slot"
    told = {
        "PENSTOCK_SLOT_COMMAND": f"{wrapper} {command}".strip(),
        slot.ENV_FAULTS: str(folder / "faults"),
        slot.ENV_CLOCK_STEP: str(folder / "clock"),
        fake.ENV_EXECUTIONS: str(executions or folder / "executions"),
        fake.ENV_FORWARD_MS: str(forward_ms),
    }
    (folder / "faults").mkdir()
    stage: Stage | None = None
    is_good = False
    with _environment(told):
        try:
            if server is not None:
                server.start()
            settings = _settings(folder, url or (server.url if server else ""), slots, most_slots, sections)
            stage = Stage(settings, server, folder, slots)
            pool.up(settings, say=_quiet)
            readiness.wait_until_ready(settings, range(slots), timeout_s=READY_WITHIN_S, say=_quiet)
            yield stage
            is_good = True
        finally:
            if stage is not None:
                pool.down(stage.settings, say=_quiet)
                stage.close()
            if server is not None:
                server.stop()
            if is_good:
                shutil.rmtree(folder, ignore_errors=True)


def _settings(folder: Path, url: str, slots: int, most_slots: int, sections: dict[str, dict[str, Any]]) -> Settings:
    model = {"artifact": str(fake.build(folder / "model")), "slots": slots, **sections.pop("model", {})}
    tables: dict[str, dict[str, Any]] = {
        "redis": {"url": url},
        "pool": {"host": HOST, "most_slots": most_slots, **sections.pop("pool", {})},
        "runs": {"workers": 0, **sections.pop("runs", {})},  # its program takes a second of a core to start
        "slot": {**SLOT, **sections.pop("slot", {})},
        **sections,
        f"models.{fake.MODEL}": model,
    }
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    file = folder / "pool.toml"
    file.write_text("\n".join(lines) + "\n")
    return load(str(file), environ={})


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    return msgspec.json.encode(value).decode()


@contextlib.contextmanager
def _environment(told: dict[str, str]) -> Iterator[None]:
    """Sets variables, without another pool's, for the programs started in the block."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        del os.environ[name]
    os.environ.update(told)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _quiet(_: str) -> None:
    pass
