"""What a shell and its scripts get of `penstock`: completion, exit codes, colours, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from broker import audit, keys
from broker.connection import Link
from operators.cli import cli
from operators.commands.cli import ELSEWHERE, SECTIONS
from tests.operators.conftest import ROOT, penstock, penstock_alone

POOL = """\
[pool]
most_slots = 3
[models.tiny]
artifact = "tiny"
[models.toy]
artifact = "toy"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "pool.toml"
    path.write_text(POOL)
    return path


def offered(words: str, config: Path) -> list[str]:
    """What bash is offered for the last word."""
    answer = subprocess.run(
        [sys.executable, "-m", "operators.cli"], cwd=ROOT, text=True, capture_output=True, timeout=30, check=False,
        env={
            **os.environ, "_PENSTOCK_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")),
            "PENSTOCK_CONFIG": str(config),
        },
    )  # fmt: skip
    assert answer.stderr == ""
    return [line.partition(",")[2] for line in answer.stdout.split()]


def test_commands_models_and_programs_are_completed(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CONFIG", str(config))
    shell = BashComplete(cli, {}, "penstock", "_PENSTOCK_COMPLETE")

    def given(*words: str) -> list[str]:
        return [one.value for one in shell.get_completions(list(words[:-1]), words[-1])]

    assert given("sta") == ["status"]
    assert given("scale", "t") == ["tiny", "toy"]
    assert given("dead", "ls", "ti") == ["tiny"]
    assert set(given("jobs", "")) == {"ls", "show"}
    (config.parent / "var" / "log").mkdir(parents=True)
    (config.parent / "var" / "log" / "slot_02.log").touch()
    assert given("logs", "") == ["slot", "slot_02"]


def test_a_shell_is_offered_nothing_rather_than_a_traceback(config: Path) -> None:
    assert offered("penstock scale ", config) == ["tiny", "toy"]
    config.write_text("this is no TOML")
    assert offered("penstock scale ", config) == []


def test_slots_and_runs_are_offered_where_they_are_known(config: Path, redis_url: str) -> None:
    from operators.completion import words

    assert words.slots(str(config)) == ["0", "1", "2"]
    config.write_text(f'[redis]\nurl = "{redis_url}"\n')
    link = Link(redis_url)
    link.connect()
    link.call("FLUSHALL")
    link.call("ZADD", keys.runs(), 1, "aa11", 2, "bb22")
    link.close()
    assert words.runs(str(config)) == ["bb22", "aa11"]
    config.write_text('[redis]\nurl = "unix:///tmp/no-such.sock"\n')
    assert words.runs(str(config)) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_is_printed(config: Path, shell: str) -> None:
    answer = penstock("completion", shell, config=config)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "_PENSTOCK_COMPLETE=" in answer.stdout
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=answer.stdout, text=True, check=False).returncode == 0


def test_help_groups_every_command_and_tells_the_exit_codes() -> None:
    answer = CliRunner().invoke(cli, ["--help"], prog_name="penstock")
    assert answer.exit_code == 0
    for name in {*ELSEWHERE, *cli.commands}:
        assert f"\n  {name} " in answer.output, f"{name} stands in no section"
    assert {*ELSEWHERE, *cli.commands} <= {name for names in SECTIONS.values() for name in names}
    assert "Exit codes:\n    0    done\n" in answer.output
    assert max(map(len, answer.output.splitlines())) <= 80


READING = (
    ["status"], ["top"], ["logs"], ["jobs", "show"], ["jobs", "ls"], ["dead", "ls"], ["dead", "show"], ["models", "ls"], ["doctor"],
    ["audit"],
)  # fmt: skip


@pytest.mark.parametrize("path", READING, ids=" ".join)
def test_every_reading_command_prints_json(path: list[str]) -> None:
    command: click.Command = cli
    context = click.Context(cli)
    for name in path:
        assert isinstance(command, click.Group)
        _, found, _ = command.resolve_command(context, [name])
        assert found is not None
        command = found
    assert "--json" in {option for parameter in command.params for option in parameter.opts}


def test_colours_are_for_terminals_and_not_where_no_color_is_set(config: Path) -> None:
    plain = penstock_alone("status", config=config)
    assert "\x1b" not in plain.stdout
    for code, environ in ((True, {}), (False, {"NO_COLOR": "1"})):
        shown = subprocess.run(
            ["script", "-qec", f"{sys.executable} -m operators.cli status; {sys.executable} -m operators.cli scale nothing 1", "/dev/null"],
            cwd=ROOT, capture_output=True, timeout=30, check=False, env={**os.environ, "PENSTOCK_CONFIG": str(config), **environ},
        ).stdout  # fmt: skip
        assert b"the pool is not up" in shown
        assert (b"\x1b[" in shown) is code


def test_the_audit_is_listed_latest_first_with_who_what_and_why(config: Path, redis_url: str) -> None:
    config.write_text(f'[redis]\nurl = "{redis_url}"\n')
    link = Link(redis_url)
    link.connect()
    link.call("FLUSHALL")
    assert penstock("audit", config=config).stdout == "nothing was changed yet\n"
    audit.record(link, "scale", "tiny 2 -> 4", reason="a burst\x1b[2J")
    audit.record(link, "pause", "tiny low")
    link.close()
    found = json.loads(penstock("audit", "--json", config=config).stdout)
    assert [(one["command"], one["reason"]) for one in found] == [("pause", ""), ("scale", "a burst\x1b[2J")]
    shown = penstock("audit", "--since", "1h", "--limit", "1", config=config).stdout
    assert "pause" in shown
    assert "scale" not in shown
    assert "\x1b" not in penstock("audit", config=config).stdout


def test_a_group_without_a_command_shows_its_commands(config: Path) -> None:
    answer = penstock("jobs", config=config)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "\nCommands:\n  ls    List jobs of a model.\n" in answer.stderr
