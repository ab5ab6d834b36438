"""Pools for these tests: real supervisord, real embedded Redis, slots without an engine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker import settings
from broker.embedded import temporary_server
from broker.errors import PenstockError
from broker.settings import Settings
from operators import models, pool, readiness
from operators.daemon import ENV_SLOT_COMMAND
from operators.supervisor import Supervisor, is_alive

ROOT = Path(__file__).resolve().parent.parent.parent
FAKE_SLOT = Path(__file__).with_name("fake_slot.py")

POOL = """\
[pool]
most_slots = 4
host = "box"
[slot]
drain_s = 5
[models.tiny]
artifact = "tiny"
slots = 2
"""
MANIFEST = {
    "format": 1, "name": "tiny", "version": "1", "backend": "onnx", "takes": "tensors", "max_rows": 8,
    "inputs": [{"name": "x", "dtype": "float32", "shape": [4]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": [2]}],
    "options": {"file": "tiny.onnx"}, "files": [{"path": "tiny.onnx"}],
}  # fmt: skip


def wait_until(condition: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def penstock(*arguments: str, config: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command as an operator types it, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "operators.cli", *arguments], cwd=ROOT, text=True, capture_output=True, timeout=60,
        env={**os.environ, "PENSTOCK_CONFIG": str(config), **environ}, check=False,
    )  # fmt: skip


def write_pool(root: Path) -> None:
    """A configuration and a sealed artifact."""
    (root / "pool.toml").write_text(POOL)
    (root / "tiny").mkdir()
    (root / "tiny" / "tiny.onnx").write_bytes(b"no model, but a file with a checksum")
    (root / "tiny" / "manifest.json").write_text(json.dumps(MANIFEST))
    models.artifact.seal(root / "tiny")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(ENV_SLOT_COMMAND, f"{sys.executable} {FAKE_SLOT}")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A pool's root with a configuration and a sealed artifact; what still runs there is ended by its id."""
    root = Path(tempfile.mkdtemp(prefix="pool-", dir="/tmp"))  # pytest's own are too long for sockets
    write_pool(root)
    yield root
    try:
        pool.down(settings.load(str(root / "pool.toml"), environ={}), say=lambda _: None)
    except PenstockError:
        pid_file = root / "var" / "run" / "supervisord.pid"
        if pid_file.exists() and is_alive(int(pid_file.read_text())):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
    shutil.rmtree(root)


@pytest.fixture
def configured(folder: Path) -> Settings:
    return settings.load(str(folder / "pool.toml"), environ={})


@pytest.fixture
def running(configured: Settings) -> Supervisor:
    """A pool that is up, both slots ready."""
    pool.up(configured, say=lambda _: None)
    readiness.wait_until_ready(configured, [0, 1], timeout_s=20, say=lambda _: None)
    return Supervisor(configured)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with temporary_server(tmp_path_factory.mktemp("redis")) as url:
        yield url
