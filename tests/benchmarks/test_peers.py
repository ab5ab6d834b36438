"""A peer that cannot be had is left out with one line, and is asked for again the next time."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import machine, streams
from benchmarks.peers import stand, venvs


def test_a_peer_that_pip_cannot_install_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(venvs.Missing) as missing:
        venvs.python_of("mosec", home=tmp_path, pip_options=("--no-index",))
    text = str(missing.value)
    assert text.startswith("mosec is left out: pip could not install it (")
    assert "mosec==" in text
    assert "\n" not in text
    assert not (tmp_path / "mosec" / venvs.STAMP).exists()


def test_an_environment_with_the_same_pins_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "rq"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    (folder / venvs.STAMP).write_text((venvs.PINS / "requirements-rq.txt").read_text())
    assert venvs.python_of("rq", home=tmp_path, pip_options=("--no-index",)) == folder / "bin" / "python"


def test_the_run_goes_on_without_the_peers_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def missing(name: str) -> Path:
        raise venvs.Missing(f"{name} is left out: no network")

    monkeypatch.setattr(venvs, "python_of", missing)
    with contextlib.ExitStack() as stack:
        assert streams._peers(stack, tmp_path, tmp_path) == []
    assert capsys.readouterr().err.splitlines() == [
        f"bench: {kind.name} is left out: no network" for kind in stand.KINDS
    ]


def test_every_peer_has_its_program_and_its_pins() -> None:
    for kind in stand.KINDS:
        assert (venvs.PINS / f"{kind.name}_peer.py").is_file()
        pins = (venvs.PINS / f"requirements-{kind.name}.txt").read_text().split()
        assert all("==" in pin for pin in pins)


def test_cpu_time_is_counted_finer_than_a_clock_tick() -> None:
    child = subprocess.Popen([sys.executable, "-c", "print(sum(range(300_000)), flush=True); input()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert child.stdout is not None
        child.stdout.readline()
        used_s = machine.cpu_s(child.pid)
        assert used_s > 0
        if Path(f"/proc/{os.getpid()}/schedstat").exists():
            assert used_s % machine.TICK_S > 1e-9
    finally:
        child.communicate()
