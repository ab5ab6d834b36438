"""What a user meets who mistypes, or whose Redis is away: one line of one form, and nothing left behind."""

from __future__ import annotations

import time
from functools import partialmethod
from pathlib import Path

import pytest

from broker.connection import Link
from broker.errors import RedisUnavailable
from operators.cli import main
from operators.commands.cli import SECTIONS
from tests.operators.conftest import ROOT, penstock, penstock_alone


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("stauts", "no such command 'stauts'; did you mean 'status'?; see `penstock --help`"),
        ("status --jsn", "no such option '--jsn'; did you mean '--json'?; see `penstock status --help`"),
        ("status --config x", "no such option '--config'; write it first: `penstock --config FILE status`"),
        ("scale tiny", "missing argument 'N'; usage: penstock scale [OPTIONS] MODEL N"),
        ("scale 2 tiny", "invalid value for 'N': 'tiny' is not a valid whole number; see `penstock scale --help`"),
        ("scale tiny +1", "invalid value for 'N': +1 is a difference; say how many slots there shall be in all; see"),
        ("down tiny", "got unexpected extra argument (tiny); usage: penstock down [OPTIONS]"),
        ("up --timeout nan", "invalid value for '--timeout': nan is no number of seconds; see"),
        ("submit --text hi", "missing argument 'MODEL'; usage: penstock submit [OPTIONS] MODEL"),
    ],
)
def test_wrong_usage_is_one_line_with_the_mend(folder: Path, typed: str, text: str) -> None:
    answer = penstock(*typed.split(), config=folder / "pool.toml")
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"error: {text}")
    assert answer.stderr.count("\n") == 1


class Clock:
    """Stands for the module time: who sleeps is there at once."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("is_embedded", [True, False])
def test_a_pool_that_is_down_gets_nothing_made_by_any_command_but_up(
    folder: Path, is_embedded: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, by a clock that does not wait: eight interpreters and their patience took longer than all else here."""
    # given
    clock = Clock()
    monkeypatch.setattr("broker.connection.time", clock)
    monkeypatch.setattr(Link, "connect_within", partialmethod(Link.connect_within, wait=clock.sleep))
    monkeypatch.setenv("PENSTOCK_CONFIG", str(folder / "pool.toml"))
    monkeypatch.chdir(ROOT)
    config = folder / "pool.toml"
    if not is_embedded:
        config.write_text('[redis]\nurl = "redis://127.0.0.1:1"\nconnect_s = 0.1\n' + config.read_text())
    before = sorted(folder.rglob("*"))
    # when
    commands = ["status", "scale tiny 1", "models ls", "models verify", "doctor", "submit tiny --text x", "down"]
    if not is_embedded:
        commands.append("up")
    said = {}
    for command in commands:
        with pytest.raises(SystemExit):
            main(command.split())
        said[command] = capsys.readouterr().err
    # then
    assert sorted(folder.rglob("*")) == before
    assert said["submit tiny --text x"].startswith("error: no Redis at ")
    assert " within 5 s (" in said["submit tiny --text x"]
    assert ("start the pool with `penstock up`" in said["submit tiny --text x"]) == is_embedded


def test_status_says_the_mend_of_a_redis_that_is_away_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("broker.connection.time", clock)
    monkeypatch.setattr(Link, "connect_within", partialmethod(Link.connect_within, wait=clock.sleep))
    config = folder / "pool.toml"
    config.write_text('[redis]\nurl = "redis://127.0.0.1:1"\n' + config.read_text())
    answer = penstock("status", config=config)
    first, mend, second, _ = answer.stdout.splitlines()
    assert first.startswith("fail  Redis does not answer: no Redis at redis://127.0.0.1:1 within 2 s (")
    assert ";" not in first
    assert mend == "      -> start Redis, or mend redis.url in pool.toml; then `penstock up`"
    assert second == "fail  the pool is not up on this host"


@pytest.mark.parametrize(("seconds", "text"), [(0.99999, " 1 s "), (0.0, " 0 s ")])
def test_a_wait_for_redis_is_told_in_round_seconds(seconds: float, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("broker.connection.time", clock)
    with pytest.raises(RedisUnavailable, match=f"within{text}"):
        Link("unix:///nowhere/redis.sock").connect_within(seconds, wait=clock.sleep)


def test_penstock_alone_shows_the_commands_as_they_are_needed(folder: Path) -> None:
    answer = penstock_alone(config=folder / "pool.toml")
    assert answer.returncode == 0
    assert answer.stdout.startswith("Usage: penstock [OPTIONS]")
    listed = [line for line in answer.stdout.splitlines() if line.startswith("  ") and not line.startswith("  -")]
    named = {line.split()[0]: place for place, line in enumerate(listed)}
    order = [name for names in SECTIONS.values() for name in names if name in named]
    assert set(order) >= {"up", "status", "submit", "scale", "tune", "models", "dead", "doctor", "down"}
    assert [named[name] for name in order] == sorted(named[name] for name in order)
    assert not any(line.endswith("...") for line in listed)
