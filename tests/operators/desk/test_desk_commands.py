"""restart, drain and config reload as they are typed, on a real supervisord with slots that only speak."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from broker import audit, overlap, roster
from broker.connection import Link
from operators import models, pool
from operators.reach import reach
from operators.supervisor import Supervisor
from tests.operators.conftest import MANIFEST, ROOT, penstock, wait_until


def pids(supervisor: Supervisor) -> dict[int, int]:
    return {number: program.pid for number, program in supervisor.slots().items() if program.pid}


def state(link: Link, number: int) -> dict[str, str]:
    name = roster.slot_name("box", number)
    return roster.states(link, [name])[name]


@pytest.fixture
def file(folder: Path) -> Path:
    return folder / "pool.toml"


def add_model(folder: Path, name: str) -> str:
    """Its table."""
    shutil.copytree(folder / "tiny", folder / name)
    (folder / name / "manifest.json").write_text(json.dumps({**MANIFEST, "name": name}))
    models.artifact.seal(folder / name)
    return f'[models.{name}]\nartifact = "{name}"\n'


def interrupted(file: Path, by: signal.Signals, condition: Callable[[], bool]) -> subprocess.CompletedProcess[str]:
    """`penstock restart`, with a signal as soon as the condition holds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "operators.cli", "restart"], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PENSTOCK_CONFIG": str(file)},
    )  # fmt: skip
    wait_until(condition)
    process.send_signal(by)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess([], process.returncode, out, err)


def test_a_file_is_refused_whole_or_applied_to_what_it_concerns(running: Supervisor, file: Path) -> None:
    # given
    good, before = file.read_text(), pids(running)
    link = reach(running.settings)
    added = add_model(file.parent, "small")
    for text, told in (
        (good.replace("slots = 2", "slots = ["), "is not TOML"),
        (good.replace("most_slots = 4", "most_slots = 5") + added, "pool.most_slots cannot change while the pool is up; nothing"),
        (good + added.replace('"small"', '"gone"'), "there is no artifact at"),
        (good + added.replace('"small"', '"tiny"'), "tiny holds model 'tiny', [models.small] names it"),
        (good + added + "slots = 2\n[models.more]\nartifact = 'small'\n", "models want 5 slots, pool.most_slots is 4"),
    ):  # fmt: skip
        # when
        file.write_text(text)
        answer = penstock("config", "reload", config=file)
        # then
        assert (answer.returncode, told in answer.stderr, answer.stderr.count("\n")) == (1, True, 1), answer.stderr
    assert {one.model for one in roster.assignments(link, "box").values()} == {"tiny"}
    file.write_text("not toml [")
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: state(link, 0).get("state") == "ready" and state(link, 0)["pid"] != str(before[0]))
    # when
    file.write_text(good + added)
    before = pids(running)
    early = penstock("scale", "small", "1", config=file)
    shown = penstock("config", "diff", "--exit-code", config=file)
    answer = penstock("config", "reload", "--reason", "more of it", config=file)
    # then
    assert (
        early.stderr == "error: the running pool does not know small yet; `penstock config reload` applies pool.toml\n"
    )
    assert (shown.returncode, shown.stdout) == (1, "models.small: new  (slots of small come or go)\n")
    assert (answer.returncode, answer.stdout.splitlines()[-1]) == (0, f"applied {file}: started slot 2"), answer.stderr
    assert pids(running).items() > before.items()
    assert (
        penstock("config", "diff", "--exit-code", config=file).stdout == "the pool runs with pool.toml as it stands\n"
    )
    (act, *_) = audit.acts(link)
    assert (act.command, act.target, act.reason) == ("config reload", "models.small", "more of it")
    link.close()


@pytest.mark.slow
def test_a_model_that_is_removed_is_drained_once_that_was_agreed(running: Supervisor, file: Path) -> None:
    good = file.read_text()
    file.write_text(good + add_model(file.parent, "small"))
    assert penstock("config", "reload", config=file).returncode == 0
    file.write_text(good)
    asked = penstock("config", "reload", config=file)
    assert (asked.returncode, list(pids(running))) == (2, [0, 1, 2])
    assert "give --yes" in asked.stderr
    assert "the pool runs with other settings than pool.toml: models.small" in penstock("doctor", config=file).stdout
    answer = penstock("config", "reload", "--yes", config=file)
    assert answer.stdout.splitlines()[-1] == f"applied {file}: drained slot 2"
    assert list(pids(running)) == [0, 1]


@pytest.mark.slow
def test_a_restart_whose_slot_cannot_load_leaves_the_rest_alone(running: Supervisor, file: Path) -> None:
    # given a spare that cannot load
    note = running.settings.var / "slot-2.cannot-load"
    note.write_text("load_failed: CUDA asked for, none here")
    before = pids(running)
    # when
    answer = penstock("restart", config=file)
    # then
    assert answer.returncode == 1
    assert "error: slot 0 of tiny: the spare, slot 2, is backing off (load_failed: CUDA asked for" in answer.stderr
    assert answer.stderr.splitlines()[-1].endswith("left alone: slot 1")
    assert pids(running) == before
    # when there is nobody to start a spare
    running._tell("stopProcess", "agent", True, ignore=())
    link = reach(running.settings)
    wait_until(lambda: not roster.agent(link, "box"))
    note.rename(running.settings.var / "slot-0.cannot-load")
    answer = penstock("restart", "tiny", config=file)
    # then
    assert answer.returncode == 1
    assert "; left alone: slot 1" in answer.stderr
    assert pids(running)[1] == before[1]
    # when it is mended, the one that is not ready goes first
    (running.settings.var / "slot-0.cannot-load").unlink()
    answer = penstock("restart", "--json", config=file)
    assert [(one["number"], one["how"]) for one in json.loads(answer.stdout)] == [(0, "in place"), (1, "in place")]
    assert not overlap.requests(link, "box")
    link.close()


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGHUP])
def test_a_restart_that_is_interrupted_leaves_the_pool_whole(
    running: Supervisor, file: Path, by: signal.Signals
) -> None:
    # given a spare that takes its time
    (running.settings.var / "slot-2.backing-off").touch()
    before, link = pids(running), reach(running.settings)
    command = interrupted(file, by, lambda: bool(overlap.requests(link, "box")) and 2 in pids(running))
    # then
    assert (command.returncode, command.stderr.splitlines()[-1]) == (130, "interrupted")
    assert "stopped at slot 0 of tiny; left alone: slot 1" in command.stderr
    wait_until(lambda: pids(running) == before and not overlap.requests(link, "box"))
    assert sorted(roster.assignments(link, "box")) == [0, 1]
    link.close()


@pytest.mark.slow
def test_drained_slots_stay_away_and_the_way_back_is_told(running: Supervisor, file: Path) -> None:
    link = reach(running.settings)
    assert penstock("drain", "--slot", "0", config=file).returncode == 2
    answer = penstock("drain", "--slot", "0", "--yes", config=file)
    assert answer.stdout == (
        "drained 1 slot: 0\ntiny: 1 wanted on this host; `penstock scale tiny 2` brings them back\n"
    )
    assert (
        "slot 0 serves nothing on this host; those that do: 1 (tiny)"
        in penstock("restart", "--slot", "0", config=file).stderr
    )
    assert penstock("drain", "tiny", "--yes", "--json", config=file).returncode == 0
    begun = roster.now_ms(link)
    wait_until(lambda: roster.now_ms(link) > begun + 2500)  # the agent has looked
    assert pids(running) == {}
    assert pool.scale(running.settings, "tiny", 2).started == (0, 1)
    link.close()


def test_a_pool_that_is_down_is_one_line_and_the_file_can_still_be_checked_and_shown(file: Path) -> None:
    for command in (["restart"], ["drain", "--yes"], ["config", "reload"], ["config", "diff"]):
        answer = penstock(*command, config=file)
        assert (answer.returncode, answer.stderr) == (1, "error: the pool is not up; start it with `penstock up`\n")
    assert not (file.parent / "var").exists()
    assert '[models.tiny]\nartifact = "tiny"\n' in penstock("config", "show", config=file).stdout
    shutil.rmtree(file.parent / "tiny")
    answer = penstock("config", "check", "--json", config=file)
    assert answer.returncode == 1
    assert [one["level"] for one in json.loads(answer.stdout)][:2] == ["ok", "fail"]
