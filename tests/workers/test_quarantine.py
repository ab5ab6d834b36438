"""Devices that an engine holds which does not die."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.quarantine import Quarantine, end_engine, started_at


@pytest.fixture
def stuck() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for an engine the driver holds."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_device_is_held_while_that_very_process_lives(tmp_path: Path, stuck: subprocess.Popen[bytes]) -> None:
    quarantine = Quarantine(tmp_path)
    assert quarantine.holder("cuda:0") is None
    quarantine.add("cuda:0", stuck.pid, "the engine was silent for 60 s")
    held = quarantine.holder("cuda:0")
    assert held is not None
    assert f"device cuda:0 quarantined: engine PID {stuck.pid} survives SIGKILL" in held.text
    assert quarantine.holder("cuda:1") is None
    stuck.kill()
    stuck.wait()
    assert quarantine.holder("cuda:0") is None
    assert list((tmp_path / "quarantine").iterdir()) == [], "the note went with the process"


def test_a_later_process_of_the_same_pid_holds_nothing(tmp_path: Path, stuck: subprocess.Popen[bytes]) -> None:
    quarantine = Quarantine(tmp_path)
    quarantine.add("cuda:0", stuck.pid, "hung")
    (note,) = (tmp_path / "quarantine").iterdir()
    note.write_text(note.read_text().replace("+", "+9"))
    assert quarantine.holder("cuda:0") is None


def test_an_engine_that_died_after_all_is_no_reason(tmp_path: Path, stuck: subprocess.Popen[bytes]) -> None:
    stuck.kill()
    stuck.wait()
    assert Quarantine(tmp_path).add("cuda:0", stuck.pid, "hung") is None


def test_what_a_dead_slot_left_running_is_killed_and_nothing_else(stuck: subprocess.Popen[bytes]) -> None:
    started = started_at(stuck.pid)
    assert end_engine(stuck.pid, "another start")
    assert stuck.poll() is None, "not the process that was noted"
    assert not end_engine(stuck.pid, started, within_s=0.05, kill=lambda pid, sign: None)
    assert end_engine(stuck.pid, started)
    assert stuck.wait() == -9
