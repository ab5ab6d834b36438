"""The program as a process: it ends with the supervisord that started it, and there is one of a name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import runs
from broker.connection import Link
from operators.runs.program import TWICE
from operators.supervisor import is_alive
from tests.wait import wait_until

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-m", "operators.runs"])
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def parent(redis_url: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Stands for supervisord: its child is a program."""
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, env=environment(redis_url, tmp_path), stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def environment(url: str, folder: Path) -> dict[str, str]:
    return os.environ | {
        "PENSTOCK_REDIS_URL": url, "PENSTOCK_VAR_DIR": str(folder), "PENSTOCK_HOST": folder.name, "SUPERVISOR_ENABLED": "1",
        "SUPERVISOR_PROCESS_NAME": "runs_00",
    }  # fmt: skip


def test_a_program_ends_with_its_supervisord_and_a_second_of_its_name_does_not_begin(
    parent: subprocess.Popen[str], redis_url: str, link: Link, tmp_path: Path
) -> None:
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    wait_until(lambda: [one for one in runs.beats(link) if one.pid == pid], "the program beats", timeout=20)
    # when
    second = subprocess.run(
        [sys.executable, "-m", "operators.runs"], env=environment(redis_url, tmp_path), timeout=30, check=False
    )
    # then
    assert second.returncode == TWICE
    # when
    os.kill(parent.pid, signal.SIGKILL)
    # then
    wait_until(lambda: not is_alive(pid), "it ended too", timeout=20)
