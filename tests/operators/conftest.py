"""Pools for these tests: real supervisord, real embedded Redis, slots without an engine."""

from __future__ import annotations

import contextlib
import io
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
from operators.cli import main
from operators.daemon import ENV_SLOT_COMMAND
from operators.supervisor import Supervisor, is_alive

ROOT = Path(__file__).resolve().parent.parent.parent
Run = Callable[..., tuple[int, str, str]]
FAKE_SLOT = Path(__file__).with_name("fake_slot.py")

POOL = """\
[pool]
most_slots = 4
host = "box"
[runs]
workers = 0 # it takes a second of a core to start; who tests it asks for it
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


def wait_until(condition: Callable[[], object], *, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def penstock(*arguments: str, config: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command as an operator types it, in this process: an interpreter of its own takes half a second to start."""
    out, err = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())  # JSON is written as bytes
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(ROOT)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))  # no terminal, whatever runs the tests
        for name, value in {"PENSTOCK_CONFIG": str(config), **environ}.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as end:
            main(arguments)
    texts = []
    for stream in (out, err):
        stream.seek(0)
        texts.append(stream.read())
    return subprocess.CompletedProcess(arguments, int(end.value.code or 0), *texts)


def penstock_alone(*arguments: str, config: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, where that is the point."""
    return subprocess.run(
        [sys.executable, "-m", "operators.cli", *arguments], cwd=ROOT, text=True, capture_output=True, timeout=60,
        env={**os.environ, "PENSTOCK_CONFIG": str(config), **environ}, check=False,
    )  # fmt: skip


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command as typed, in this process and with the settings of the test: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(one) for one in arguments])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def write_pool(root: Path) -> None:
    """A configuration and a sealed artifact."""
    (root / "pool.toml").write_text(POOL)
    (root / "tiny").mkdir()
    (root / "tiny" / "tiny.onnx").write_bytes(b"no model, but a file with a checksum")
    (root / "tiny" / "manifest.json").write_text(json.dumps(MANIFEST))
    models.artifact.seal(root / "tiny")


def set_environment(patch: pytest.MonkeyPatch) -> None:
    """None of this machine's settings, and slots that only speak."""
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        patch.delenv(name)
    patch.setenv(ENV_SLOT_COMMAND, f"{sys.executable} {FAKE_SLOT}")


@contextlib.contextmanager
def pool_root() -> Iterator[Path]:
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


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch)


@pytest.fixture
def folder() -> Iterator[Path]:
    with pool_root() as root:
        yield root


@pytest.fixture
def configured(folder: Path) -> Settings:
    return settings.load(str(folder / "pool.toml"), environ={})


@pytest.fixture
def running(configured: Settings) -> Supervisor:
    """A pool that is up, both slots ready."""
    pool.up(configured, say=lambda _: None)
    readiness.wait_until_ready(configured, [0, 1], timeout_s=20, say=lambda _: None)
    return Supervisor(configured)


@pytest.fixture(scope="module")
def kept_up() -> Iterator[Supervisor]:
    """One pool for all tests of a file that leave it as they found it; they ask for `standing`."""
    with pytest.MonkeyPatch.context() as patch, pool_root() as root:
        set_environment(patch)
        chosen = settings.load(str(root / "pool.toml"), environ={})
        pool.up(chosen, say=lambda _: None)
        yield Supervisor(chosen)


@pytest.fixture
def standing(kept_up: Supervisor) -> Supervisor:
    """The pool of this file, both slots ready."""
    readiness.wait_until_ready(kept_up.settings, [0, 1], timeout_s=20, say=lambda _: None)
    return kept_up


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with temporary_server(tmp_path_factory.mktemp("redis")) as url:
        yield url
