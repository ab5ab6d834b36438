"""A pool.toml that is broken, or was edited, beside a pool that runs: commands go by what the pool was given, and say so."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from broker import keys, roster, runs
from broker.queue import Queue
from broker.runs import Request
from broker.settings import load
from operators import applied, fallback
from operators.cli import main
from operators.reach import reached
from operators.supervisor import Supervisor

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def file(folder: Path) -> Path:
    return folder / "pool.toml"


@pytest.fixture
def typed(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    """The command as typed, in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("PENSTOCK_CONFIG", str(file))

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def test_a_broken_file_blinds_no_command_about_the_running_pool_and_stops_those_that_apply_it(
    running: Supervisor, file: Path, typed: Typed
) -> None:
    # given
    good = file.read_text()
    file.write_text(good + '[slot\nlease_s = "')
    why = f"{file} is not TOML"
    # then what looks or acts goes by what the pool was given, and says so in one line
    looking: tuple[tuple[str, ...], ...] = (
        ("status", "--json"), ("top", "--once", "--json"), ("jobs", "ls", "tiny", "--json"), ("dead", "ls", "--json"), ("audit", "--json"),
        ("run", "ls", "--json"), ("models", "ls", "--json"), ("config", "show", "--json"), ("autoscale", "--json"), ("pause", "tiny", "--json"),
        ("resume", "tiny", "--json"),
    )  # fmt: skip
    for command in looking:
        code, out, err = typed(*command)
        assert (code, err.count("pool.toml is broken")) == (0, 1), (command, err)
        assert err.startswith(f"pool.toml is broken ({why}"), err
        assert err.endswith("/var/applied.toml\n"), err
        json.loads(out)
    code, out, err = typed("logs", "agent", "-n", "1")
    assert (code, err.count("\n")) == (0, 1)
    assert typed("scale", "tiny", "2", "--no-wait")[:2] == (0, "tiny: 2 wanted, nothing to change\n")
    # and it is a problem, with its mend
    (problem,) = json.loads(typed("status", "--json")[1])["problems"]
    assert problem["level"] == "error"
    assert problem["text"].startswith(f"pool.toml is broken, the next `penstock up` would be refused: {why}")
    code, out, _ = typed("doctor")
    assert (code, "fail  pool.toml is broken, the next" in out) == (1, True)
    # and no other pool's file is helped by this one's copy, though its state folder is the same by default
    other = file.with_name("other.toml")
    other.write_text("no toml [")
    assert fallback.in_force_of_broken(str(other), environ={}) is None
    assert fallback.in_force_of_broken(str(file), environ={}) == running.settings
    # and what would apply the file refuses, changing nothing
    for command in (
        ("up",),
        ("config", "check"),
        ("config", "diff"),
        ("config", "reload"),
        ("config", "show", "--file"),
    ):
        code, out, err = typed(*command)
        assert (code, out, err.startswith(f"error: {why}"), err.count("\n")) == (1, "", True, 1), (command, err)
    assert running.is_running()
    # when
    code, out, _ = typed("down")
    # then
    assert (code, out) == (0, "the pool is down; drained slots 0, 1\n")
    code, _, err = typed("status")
    assert (code, err.startswith(f"error: {why}")) == (1, True)


@pytest.mark.parametrize(
    "text",
    [
        'pool.var_dir = "state"\nhost = [',
        "[pool]\nvar_dir = 'state'\n[slot]\nlease = 3\n",
        '[pool]\n# var_dir = "other"\nvar_dir = "state" # it was var\nmost_slots = -1\n',
    ],
)
def test_the_state_folder_is_found_though_the_file_that_names_it_is_broken(
    file: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    # given a pool that keeps its state elsewhere
    good = '[pool]\nvar_dir = "state"\n[slot]\nlease_s = 7.0\n[models.tiny]\nartifact = "tiny"\n'
    file.write_text(good)
    given = load(str(file), environ={})
    given.var.mkdir()
    applied.write(given, good)
    file.write_text(text)
    # then it is the running pool's, or nothing at all
    assert fallback.in_force_of_broken(str(file), environ={}) is None
    monkeypatch.setattr(Supervisor, "is_running", lambda _: True)
    monkeypatch.setattr(Supervisor, "require_ours", lambda _: None)
    assert fallback.in_force_of_broken(str(file), environ={}) == given
    # and a copy that is broken as well is none
    applied.path(given).write_text("no toml [")
    assert fallback.in_force_of_broken(str(file), environ={}) is None


def test_status_judges_by_what_the_pool_was_given_and_says_that_the_file_differs(
    running: Supervisor, file: Path, typed: Typed
) -> None:
    # given an edit that was not applied: a model more, and another Redis that is not there
    good = file.read_text()
    edited = good + '[models.more]\nartifact = "tiny"\n[redis]\nurl = "redis://127.0.0.1:1"\n'
    file.write_text(edited)
    # when
    found = json.loads(typed("status", "--json")[1])
    # then
    (problem,) = found["problems"]
    assert (problem["level"], problem["mend"]) == ("warning", "penstock config diff")
    assert problem["text"] == "the pool runs with other settings than pool.toml: redis.url, models.more"
    assert [(one["name"], one["ready"]) for one in found["models"]] == [("tiny", 2)]
    # and once it is taken back nothing is said
    file.write_text(good)
    assert json.loads(typed("status", "--json")[1])["problems"] == []
    # and a copy that nobody can read is said, for slots cannot read it either
    applied.path(running.settings).write_text("no toml [")
    (problem, *_) = json.loads(typed("status", "--json")[1])["problems"]
    assert (problem["level"], problem["mend"]) == ("error", "`penstock down`, then `penstock up` makes it anew")


def test_down_asks_at_a_terminal_where_something_waits_and_nowhere_else(
    running: Supervisor, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a job that is delayed, and a run of another host
    with reached(running.settings) as link:
        Queue("tiny", "none").ensure_groups(link)
        link.call("ZADD", keys.delayed("tiny"), roster.now_ms(link) + 3_600_000, "later")
        request = Request(input="/a.csv", output="/b.csv", model="tiny", mapping={}, host="far")
        runs.submit(link, request, runs.run_id(request, "print", "1"))

    def at_terminal(answer: str) -> None:
        stdin = io.StringIO(answer)
        monkeypatch.setattr(stdin, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdin", stdin)

    # when somebody thinks again
    at_terminal("n\n")
    code, out, err = typed("down")
    # then
    assert (code, out, running.is_running()) == (1, "", True)
    assert err.startswith("1 job waits, 1 bulk run is not done: take the pool down? They stay in Redis [y/N]: ")
    assert err.endswith("error: nothing was changed; answer y, or give --yes\n")
    # when systemd or a script does it
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    code, out, err = typed("down")
    # then
    assert (code, out) == (0, "the pool is down; drained slots 0, 1; 1 job waits in Redis for the next `penstock up`\n")
    assert "take the pool down" not in err


def test_up_starts_a_program_of_bulk_runs_that_somebody_stopped(file: Path, typed: Typed) -> None:
    # given
    file.write_text(file.read_text().replace("workers = 0", "workers = 1"))
    assert typed("up")[0] == 0
    supervisor = Supervisor(load(str(file), environ={}))
    supervisor._tell("stopProcess", "runs:runs_00", ignore=())
    with reached(supervisor.settings) as link:
        link.call("DEL", keys.runs_beat("box"))
    # then
    (problem,) = json.loads(typed("status", "--json")[1])["problems"]
    assert problem["text"] == "the runs program runs_00 does not run (supervisord: STOPPED)"
    assert problem["mend"] == "penstock up"
    assert "warn  the runs program runs_00 does not run" in typed("doctor")[1]
    # when
    assert typed("up")[0] == 0
    # then
    (program,) = supervisor.programs("runs")
    assert program.state in ("STARTING", "RUNNING")
