"""What an operator sees: one line for an error, JSON where asked, help everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from operators.artifacts.cli import models
from operators.cli import cli
from operators.supervisor import Supervisor
from tests.operators.conftest import penstock, penstock_alone


def commands(group: click.Group, *names: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found.append((*names, name))
        if isinstance(command, click.Group):
            found += commands(command, *names, name)
    return found


@pytest.mark.parametrize("path", [*commands(cli), ("models",), *commands(models, "models")], ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    answer = CliRunner().invoke(cli, [*path, "--help"])
    assert answer.exit_code == 0
    assert len(answer.output.splitlines()) > 5


def test_help_lists_submit_without_importing_the_producer(folder: Path) -> None:
    answer = penstock_alone("--help", config=folder / "pool.toml")
    assert answer.returncode == 0
    assert "submit" in answer.stdout


@pytest.mark.parametrize("command", [["up"], ["status"], ["doctor"]])
def test_an_unknown_key_in_pool_toml_names_the_nearest(folder: Path, command: list[str]) -> None:
    (folder / "pool.toml").write_text("[slot]\nlease = 3\n")
    answer = penstock(*command, config=folder / "pool.toml")
    assert answer.returncode == 1
    assert answer.stderr == f'error: {folder}/pool.toml [slot]: unknown key "lease"; did you mean "lease_s"?\n'


def test_a_pool_that_is_down_is_one_line_for_scale_and_a_snapshot_for_status(folder: Path) -> None:
    answer = penstock("scale", "tiny", "1", config=folder / "pool.toml")
    assert (answer.returncode, answer.stderr) == (1, "error: the pool is not up; start it with `penstock up`\n")

    answer = penstock("status", "--json", config=folder / "pool.toml")
    assert answer.returncode == 0
    found = json.loads(answer.stdout)
    assert found["is_up"] is False
    assert found["problems"] == [{"level": "error", "text": "the pool is not up on this host", "mend": "penstock up"}]


def test_wrong_usage_exits_with_2(folder: Path) -> None:
    answer = penstock_alone("scale", "tiny", "minus-one", config=folder / "pool.toml")
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr


def test_doctor_exits_with_1_on_a_failure_and_names_the_mend(folder: Path) -> None:
    (folder / "tiny" / "tiny.onnx").write_bytes(b"altered")
    answer = penstock("doctor", "--json", config=folder / "pool.toml")
    assert answer.returncode == 1
    failed = [one for one in json.loads(answer.stdout) if one["level"] == "fail"]
    assert len(failed) == 1
    assert "tiny.onnx" in failed[0]["text"]
    assert failed[0]["mend"]


def test_models_seal_and_verify_agree(folder: Path) -> None:
    config = folder / "pool.toml"
    (folder / "tiny" / "tiny.onnx").write_bytes(b"changed on purpose")
    assert penstock("models", "verify", config=config).returncode == 1
    assert penstock("models", "seal", "tiny", config=config).returncode == 0
    assert penstock("models", "verify", str(folder / "tiny"), config=config).returncode == 0
    answer = penstock("models", "verify", "tyny", config=config)
    assert answer.stderr == 'error: unknown model "tyny"; did you mean "tiny"?; nor is it a folder\n'


def test_the_commands_in_their_order(running: Supervisor, folder: Path) -> None:
    config = folder / "pool.toml"
    answer = penstock_alone("status", config=config)
    assert answer.returncode == 0
    assert "\x1b[" not in answer.stdout
    assert "box/1" in answer.stdout
    answer = penstock("models", "ls", "--json", config=config)
    assert [(one["name"], one["ready"]) for one in json.loads(answer.stdout)] == [("tiny", 2)]
    answer = penstock("doctor", config=config)
    assert answer.returncode == 0, answer.stdout
    assert "append-only file is on" in answer.stdout
    assert "the agent beats (pid " in answer.stdout
    assert "slots load it at their next start" in penstock("models", "seal", "tiny", config=config).stdout
    answer = penstock_alone("down", config=config)
    assert answer.stdout == "the pool is down; drained slots 0, 1\n"
    assert penstock("down", config=config).stdout == "the pool is not up; nothing to do\n"
