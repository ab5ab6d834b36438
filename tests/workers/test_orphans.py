"""Real processes, killed with -9: what they leave behind ends within seconds, and nothing is answered twice."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import embedded, keys, roster
from broker.connection import Link
from broker.messages import Kind, Status
from broker.roster import Assignment
from broker.settings import Settings, load
from tests import models
from tests.wait import wait_until
from tests.workers.fakes import Client
from workers import trust
from workers.artifact import open_artifact
from workers.blame import Blame
from workers.exits import Exit
from workers.incarnation import Incarnation
from workers.life import Life

GONE_WITHIN_S = 5.0
PIPELINE = """
import os, time
import numpy as np

while os.path.exists({slow!r}):
    time.sleep(0.05)

def preprocess(items):
    for item in items:
        if item.startswith("nap "):
            time.sleep(float(item[4:]))
            print("slept")
    return [{{"x": np.full(4, len(item), np.float32)}} for item in items]
"""
# A supervisord in three lines: starts the slot with the environment and the pipes supervisord gives it, and waits.
PARENT = """
import os, subprocess, sys
pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
child = subprocess.Popen(sys.argv[1:], env=os.environ | {"SUPERVISOR_ENABLED": "1"}, **pipes)
sys.stdin.read()
"""


class Pool:
    """One assigned slot, 0, of host h on a server of its own; `start` runs it as a real process."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        self.slow = folder / "slow"
        self.config = folder / "pool.toml"
        self.config.write_text(
            f'[redis]\nurl = "{url}"\n[pool]\nhost = "h"\ntrusted = "trusted.txt"\n'
            '[slot]\nbeat_s = 0.1\nlease_s = 0.6\nblock_ms = 100\nhang_floor_s = 2.0\n[models.text]\nartifact = "text"\n'
        )
        artifact = models.text_length(folder / "text", source=PIPELINE.format(slow=str(self.slow)))
        self.settings: Settings = load(str(self.config), environ={})
        trust.add(artifact, self.settings.trusted)
        self.link = Link(url)
        self.link.connect()
        for number in (0, 1):
            roster.assign(self.link, "h", number, Assignment("text", str(folder / "text")))
        self.client = Client(url, open_artifact(artifact.folder).spec)
        self.server_pid = self._server_pid()
        self.started: list[subprocess.Popen[bytes]] = []
        self.pids: set[int] = set()

    def start(self, *, under_supervisor: bool = False, stderr: int = -1) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "workers", "--slot", "0", "--config", str(self.config)]
        if under_supervisor:
            command = [sys.executable, "-c", PARENT, *command]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SUPERVISOR_")}
        log = (self.folder / "slot.log").open("wb")
        self.started.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log if stderr < 0 else stderr, env=environ)
        )
        log.close()
        return self.started[-1]

    def pids_of(self, state: str) -> tuple[int, int]:
        """(slot, engine) once the slot says it is in that state."""

        def look() -> tuple[int, int] | None:
            said = roster.slots(self.link).get("h/0", {})
            is_so = said.get("state") == state and int(said["engine_pid"]) > 0
            return (int(said["pid"]), int(said["engine_pid"])) if is_so else None

        pids = wait_until(look, f"the slot is {state}", timeout=20)
        self.pids.update(pids)
        return pids

    def in_engine(self) -> int:
        """How many jobs the slot notes as being in its engine."""
        page = Blame(self.folder / "var", 0)
        try:
            return len(page.read()[1])
        finally:
            page.close()

    def run_one(self, text: str) -> list[str]:
        """Submits one job and waits until it is in the engine."""
        ids = self.client.submit(text.encode(), kind=Kind.TEXT)
        wait_until(lambda: self.in_engine() == 1, "the job is in the engine")
        return ids

    def _server_pid(self) -> int:
        lines = self.link.call("INFO", "server").decode().splitlines()
        return int(next(line for line in lines if line.startswith("process_id:")).partition(":")[2])

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()
        for pid in self.pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.link.close()
        self.client.link.close()


def is_alive(pid: int) -> bool:
    """Whether the process lives; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    with embedded.temporary_server(tmp_path / "redis") as url:
        pool = Pool(url, tmp_path)
        yield pool
        pool.close()


def test_a_slot_killed_in_a_long_forward_leaves_no_engine_and_says_which_job_was_in_it(pool: Pool) -> None:
    slot = pool.start()
    _, engine = pool.pids_of("ready")
    pool.run_one("nap 60")
    slot.kill()
    wait_until(lambda: not is_alive(engine), "the engine is gone", timeout=GONE_WITHIN_S)
    assert pool.in_engine() == 1, "the next life will know"


def test_a_slot_killed_while_its_engine_loads_leaves_no_engine(pool: Pool) -> None:
    pool.slow.touch()
    slot = pool.start()
    _, engine = pool.pids_of("loading")
    slot.kill()
    wait_until(lambda: not is_alive(engine), "the engine is gone", timeout=GONE_WITHIN_S)


def test_supervisord_and_redis_killed_at_once_leave_neither_slot_nor_engine(pool: Pool) -> None:
    supervisor = pool.start(under_supervisor=True)
    slot, engine = pool.pids_of("ready")
    pool.run_one("nap 60")
    supervisor.kill()
    os.kill(pool.server_pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(slot) and not is_alive(engine), "both are gone", timeout=GONE_WITHIN_S)
    after = Incarnation(pool.folder / "var", 0)
    assert after.before.exit == "drained"
    after.close()
    assert pool.in_engine() == 0, "its job is not to blame"


def test_a_slot_whose_supervisord_was_killed_returns_its_batch_unmarked_and_ends(pool: Pool) -> None:
    supervisor = pool.start(under_supervisor=True)
    slot, engine = pool.pids_of("ready")
    pool.run_one("nap 60")
    supervisor.kill()
    wait_until(lambda: not is_alive(slot) and not is_alive(engine), "both are gone", timeout=GONE_WITHIN_S)
    lane = keys.lane("text", "normal")
    ((_, consumer, _, deliveries),) = pool.link.call("XPENDING", lane, keys.GROUP, "-", "+", 10)
    assert (consumer, deliveries) == (b"returned", 1), "an orphan's batch is not to blame"
    (exit,) = roster.exits(pool.link)
    assert (exit.reason, exit.detail) == ("drained", "supervisord is gone")

    after = Incarnation(pool.folder / "var", 0)
    assert after.before.exit == "drained"
    after.close()


def test_a_job_that_prints_after_its_supervisord_was_killed_is_answered(pool: Pool) -> None:
    supervisor = pool.start(under_supervisor=True)
    slot, _ = pool.pids_of("ready")
    ids = pool.run_one("nap 0.4")
    supervisor.kill()
    (outcome,) = pool.client.wait(ids)
    assert outcome.status is Status.DONE
    wait_until(lambda: not is_alive(slot), "the slot is gone", timeout=GONE_WITHIN_S)


def test_a_slot_that_hangs_in_its_own_log_ends_itself(pool: Pool) -> None:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    slot = pool.start(stderr=write)
    _, engine = pool.pids_of("ready")
    # when: who reads its standard error stands still, and there is something to say
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x")
    os.set_blocking(write, True)
    pool.link.call("CLIENT", "KILL", "TYPE", "normal")
    # then
    try:
        assert slot.wait(15) == Exit.HANG
    finally:
        os.close(read)
        os.close(write)
    wait_until(lambda: not is_alive(engine), "the engine is gone", timeout=GONE_WITHIN_S)


def test_a_slot_that_was_stopped_past_its_lease_wakes_and_answers_nothing_twice(pool: Pool) -> None:
    pool.start()
    slot, engine = pool.pids_of("ready")
    ids = pool.run_one("nap 0.3")
    for pid in (slot, engine):
        os.kill(pid, signal.SIGSTOP)
    # when another slot sweeps, runs the job and answers
    other = Life(pool.settings, 1, is_inline=True)
    thread = threading.Thread(target=other.live)
    thread.start()
    pool.client.wait(ids)
    for pid in (slot, engine):
        os.kill(pid, signal.SIGCONT)
    # then the one that slept comes to the same end, and goes on
    wait_until(lambda: roster.slots(pool.link)["h/0"].get("held") == "0", "it holds nothing any more")
    other.stop()
    thread.join(10)
    pool.client.wait(pool.client.submit(b"more", kind=Kind.TEXT))
    assert pool.client.counters()["done"] == 2
    assert pool.client.left() == (0, 0)
    assert is_alive(slot)
    assert pool.in_engine() == 0, "what was answered is to blame for nothing"
