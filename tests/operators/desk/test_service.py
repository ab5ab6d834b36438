"""configs/penstock.service, as far as it can be tried without a systemd that runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from broker.settings import Settings
from operators.pool import LOADING_WAIT_S
from operators.supervisor import SHUTDOWN_TIMEOUT_S, stop_wait_s

ROOT = Path(__file__).resolve().parents[3]
UNIT = ROOT / "configs" / "penstock.service"


def value(key: str) -> str:
    (found,) = [line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith(f"{key}=")]
    return found


def test_it_waits_longer_than_a_drain_and_a_redis_that_writes_may_take() -> None:
    assert int(value("TimeoutStopSec")) > stop_wait_s(Settings()) + SHUTDOWN_TIMEOUT_S
    assert int(value("TimeoutStartSec")) > LOADING_WAIT_S


@pytest.mark.parametrize("manager", ["--system", "--user"])
def test_systemd_takes_it_for_the_machine_and_for_a_user(tmp_path: Path, manager: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    program = tmp_path / ".venv" / "bin" / "penstock"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "penstock.service"
    unit.write_text(UNIT.read_text().replace("/opt/penstock", str(tmp_path)))
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        ["systemd-analyze", manager, "verify", str(unit)], env=environ, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
