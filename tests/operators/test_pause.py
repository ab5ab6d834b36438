"""`penstock pause` and `resume` as an operator types them, and what `status` says meanwhile, on a pool made by hand in a real Redis."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from broker import audit, keys, paused, roster
from broker.connection import Link
from broker.messages import LANES
from broker.paused import Pause
from broker.settings import Settings
from operators import cli, status
from operators.problems import find_problems
from tests.operators.conftest import ROOT
from tests.operators.test_status import SERVER, model, settings  # noqa: F401 - a fixture

ME = f"{audit.user()}@{socket.gethostname()}"
ANN = Pause("ann@box", "deploy", 1_000_000)


@pytest.fixture
def link(redis_url: str) -> Iterator[Link]:
    link = Link(redis_url)
    link.connect()
    link.call("FLUSHALL")
    link.call("SADD", keys.models(), "tiny")
    yield link
    link.close()


@pytest.fixture
def config(redis_url: str, tmp_path: Path) -> Path:
    path = tmp_path / "pool.toml"
    path.write_text(f'[redis]\nurl = "{redis_url}"\n[pool]\nhost = "box"\nvar_dir = "{tmp_path}/var"\n')
    return path


def run(config: Path, *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli.cli, ["--config", str(config), *arguments], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    assert done.exit_code == code
    return done.output


def test_a_pause_and_a_resume_say_what_they_did_and_stand_in_the_audit(config: Path, link: Link) -> None:
    said = run(config, "pause", "tiny", "--reason", "bad\tweights")
    assert said == (
        "tiny: paused; slots finish what they hold and claim no more within about a second; "
        "`penstock resume tiny` ends it\n"
    )
    assert {one.by for one in paused.pauses(link, "tiny").values()} == {ME}
    assert "nothing to do" in run(config, "pause", "tiny")
    assert run(config, "resume", "tiny").startswith(f"tiny: resumed; it was paused by {ME} (bad weights) ")
    assert run(config, "resume", "tiny") == "tiny: it is not paused; nothing to do\n"
    acts = audit.acts(link)
    assert [(act.command, act.target, act.reason) for act in acts] == [
        ("resume", "tiny", ""),
        ("pause", "tiny", "bad\tweights"),
    ]


def test_one_lane_is_paused_by_itself_and_the_rest_afterwards(config: Path, link: Link) -> None:
    said = run(config, "pause", "tiny", "--lane", "low")
    assert "tiny: paused (low);" in said
    assert "`penstock resume tiny --lane low`" in said
    assert run(config, "resume", "tiny", "--lane", "high") == "tiny: lane high is not paused; nothing to do\n"
    assert "tiny: paused (high, normal);" in run(config, "pause", "tiny", "--reason", "all of it")
    told = run(config, "resume", "tiny", "--lane", "normal")
    assert told.startswith(f"tiny: resumed (normal); it was lane normal paused by {ME} (all of it)")
    assert told.endswith(f"; still lane high paused by {ME} (all of it), lane low paused by {ME}\n")
    assert audit.acts(link)[0].target == "tiny (normal)"


def test_json_gives_what_changed_and_how_it_stands(config: Path, link: Link) -> None:
    found = json.loads(run(config, "pause", "tiny", "--lane", "high", "--reason", "x", "--json"))
    assert (found["model"], found["changed"], list(found["paused"])) == ("tiny", ["high"], ["high"])
    assert found["paused"]["high"]["reason"] == "x"
    found = json.loads(run(config, "resume", "tiny", "--json"))
    assert (found["changed"], found["paused"]) == (["high"], {})


def test_a_model_nobody_knows_is_refused_and_one_that_was_forgotten_can_be_resumed(config: Path, link: Link) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "operators.cli", "--config", str(config), "pause", "tinny"], cwd=ROOT, text=True,
        capture_output=True, timeout=60, env=os.environ.copy(), check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == 'error: unknown model "tinny"; did you mean "tiny"?; see `penstock status`\n'
    assert link.call("EXISTS", keys.paused("tinny")) == 0
    assert audit.acts(link) == []
    paused.pause(link, "gone", LANES, ANN)
    assert "gone: resumed" in run(config, "resume", "gone")


def test_status_shows_a_pause_with_who_why_and_the_command_that_ends_it(
    link: Link,
    settings: Settings,  # noqa: F811
) -> None:
    now_ms = roster.now_ms(link)
    paused.pause(link, "tiny", ["low"], Pause("ann@box", "deploy", now_ms - 180_000))
    link.call("XADD", keys.lane("tiny", "low"), "*", "b", "job")
    found = status.read(link, settings)
    assert found.models[0].paused["low"].by == "ann@box"
    (problem,) = [one for one in found.problems if "paused" in one.text]
    assert problem.level == "warning"
    assert problem.text == "tiny: lane low paused by ann@box (deploy) 3 min ago, 1 job in its queue"
    assert problem.mend == "penstock resume tiny --lane low"
    assert json.loads(msgspec.json.encode(found))["models"][0]["paused"]["low"]["reason"] == "deploy"


def test_a_pause_of_all_lanes_ends_by_one_command_and_a_full_queue_by_the_same(
    settings: Settings,  # noqa: F811
) -> None:
    held = model(paused=dict.fromkeys(LANES, ANN), depth={"high": 90, "normal": 0, "low": 0})
    found = find_problems(SERVER, (held,), (), settings, now_ms=0)
    assert [(one.level, one.text, one.mend) for one in found] == [
        ("error", "tiny: the queue is 90% full; at 100 % submits are refused", "penstock resume tiny"),
        ("warning", "tiny: paused by ann@box (deploy), 90 jobs in its queue", "penstock resume tiny"),
    ]
    assert not [one for one in find_problems(SERVER, (model(),), (), settings) if "paused" in one.text]


def test_what_stands_in_a_reason_cannot_steer_the_terminal(config: Path, link: Link, settings: Settings) -> None:  # noqa: F811
    run(config, "pause", "tiny", "--reason", "a\x1b[31mb\n" + "x" * 500)
    one = paused.pauses(link, "tiny")["low"]
    assert one.reason.startswith("a [31mb x")
    assert len(one.reason) == 200
    link.call("HSET", keys.paused("tiny"), "low", msgspec.json.encode(Pause("\x1b[2Jeve", "\x07", 1)))
    assert "\x1b" not in "".join(problem.text for problem in status.read(link, settings).problems)
