"""Autoscaling under a real supervisord and agent, with slots that only say what they are told to; and its command."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from broker import audit, autoscale, keys, roster, settings, timetable
from broker.autoscale import Override
from broker.connection import Link
from broker.timetable import Learned
from operators import pool, status
from operators.autoscale import dry
from operators.autoscale.cli import autoscale as command
from operators.daemon import ENV_SLOT_COMMAND
from operators.desk.exchange import Exchange
from operators.desk.rolling import Rolling
from operators.desk.targets import Target
from operators.supervisor import Supervisor
from tests.operators.conftest import FAKE_SLOT, penstock, wait_until, write_pool

Answer = Callable[..., Result]

SCALED = """\
slots = 1
[models.tiny.autoscale]
most = 3
target_s = 0.2
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Supervisor]:
    """One pool for all tests here, with one slot; each leaves it with a single slot and an empty queue."""
    root = Path(tempfile.mkdtemp(prefix="pool-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
            patch.delenv(name)
        patch.setenv(ENV_SLOT_COMMAND, f"{sys.executable} {FAKE_SLOT}")
        write_pool(root)
        file = root / "pool.toml"
        file.write_text(file.read_text().replace("slots = 2\n", SCALED))
        chosen = settings.load(str(file), environ={})
        pool.up(chosen, say=lambda _: None)
        try:
            yield Supervisor(chosen)
        finally:
            pool.down(chosen, say=lambda _: None)
            shutil.rmtree(root)


@pytest.fixture
def link(running: Supervisor) -> Iterator[Link]:
    link = Link(running.settings.redis_url_as("admin"))
    link.connect()
    wait_until(lambda: ready(link) == {0} and roster.agent(link, "box"))
    digest = hashlib.sha256((running.settings.artifact_path("tiny") / "manifest.json").read_bytes()).hexdigest()
    link.call(*timetable.save("tiny", digest, "box/cpu", [Learned(8, (), 80.0, 90.0)]))
    yield link
    link.call("DEL", keys.lane("tiny", "normal"), keys.autoscale("box"))
    for file in running.settings.var.glob("slot-*.busy"):
        file.unlink()
    pool.scale(running.settings, "tiny", 1)
    link.close()


@pytest.fixture
def answer(running: Supervisor) -> Answer:
    """What `penstock autoscale` does with these arguments, in this process."""
    return lambda *arguments: CliRunner().invoke(command, arguments, obj=running.settings.path)


def ready(link: Link) -> set[int]:
    return {int(name.rpartition("/")[2]) for name in roster.ready(link, "tiny")}


def wait_in_line(link: Link, jobs: int) -> None:
    link.call_all([("XADD", keys.lane("tiny", "normal"), "*", "b", b"job")] * jobs)


def test_a_backlog_starts_slots_and_a_lowered_most_takes_an_idle_one_while_the_others_stay(
    running: Supervisor, link: Link, answer: Answer
) -> None:
    # given one slot that is busy, and more work than it can do in time
    var = running.settings.var
    (var / "slot-0.busy").touch()
    before = running.slots()[0].pid
    # when
    wait_in_line(link, 1000)
    # then
    wait_until(lambda: ready(link) == {0, 1, 2}, timeout_s=20)
    pids = {number: running.slots()[number].pid for number in range(3)}
    assert pids[0] == before
    assert roster.wanted(link, "tiny") == {"box": 3}
    assert {event.slot for event in roster.events(link) if event.kind == "autoscale"} == {"box/1", "box/2"}
    wait_until(
        lambda: any("autoscale has all 3 slots" in one.text for one in status.snapshot(running.settings).problems)
    )
    # when one slot fewer is allowed, and the last one works
    link.call("DEL", keys.lane("tiny", "normal"))
    (var / "slot-2.busy").touch()
    said = answer("tiny", "--max", "2", "--reason", "quiet hours")
    assert (said.exit_code, said.output) == (0, "tiny: autoscale 1 to 2 slots, target 0.2 s\n")
    assert [(act.command, act.target, act.reason) for act in audit.acts(link, 1)] == [
        ("autoscale", "tiny: 1 to 2 slots, target 0.2 s", "quiet hours")
    ]
    # then the idle one goes
    wait_until(lambda: ready(link) == {0, 2} and 1 not in roster.assignments(link, "box"), timeout_s=20)
    wait_until(lambda: running.slots()[1].state in ("STOPPED", "EXITED"))
    assert {number: running.slots()[number].pid for number in (0, 2)} == {0: pids[0], 2: pids[2]}
    assert roster.wanted(link, "tiny") == {"box": 2}
    wait_until(lambda: link.call("EXISTS", keys.slot("box/1")) == 0)


def test_the_command_shows_sets_and_forecasts(
    running: Supervisor, link: Link, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry, "LOOK_S", 0.1)
    autoscale.override(link, "box", "tiny", Override(is_off=True))
    wait_until(lambda: autoscale.decode(roster.agent(link, "box").get("autoscale", "")) == {})
    assert answer().output.splitlines()[1].split() == ["tiny", "-", "-", "-", "-", "-", "off"]
    # a dry run changes nothing
    wait_in_line(link, 1000)
    said = answer("tiny", "--dry-run", "--max", "2").output
    assert said.startswith("tiny: 1 slot, ")
    assert "would start 1 slot now" in said
    assert "1000 jobs wait; 0.0 jobs/s come, a slot does 100.0" in said
    assert ready(link) == {0}
    assert autoscale.overrides(link, "box") == {"tiny": Override(is_off=True)}
    # switched on again it has its bounds
    link.call("DEL", keys.lane("tiny", "normal"))
    assert answer("tiny", "--on").exit_code == 0
    assert autoscale.overrides(link, "box") == {}
    wait_until(lambda: "tiny" in autoscale.decode(roster.agent(link, "box").get("autoscale", "")))
    found = json.loads(answer("--json").output)
    assert [(one["model"], one["bounds"]["most"], one["state"]["wanted"]) for one in found] == [("tiny", 3, 1)]


def test_scaling_by_hand_says_that_autoscale_may_change_it(running: Supervisor, link: Link) -> None:
    answer = penstock("scale", "tiny", "1", config=Path(running.settings.path))
    assert answer.returncode == 0
    assert answer.stderr == (
        "autoscale keeps tiny between 1 and 3 slots and may change this; `penstock autoscale tiny --off` leaves it to you\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tiny", "--min", "4"], "--min 4 is above --max 3; set both"),
        (["tiny", "--max", "9"], "--max 9 is above pool.most_slots = 4; ask for less, or raise it"),
        (["tinny"], 'unknown model "tinny"; did you mean "tiny"?'),
        (["--max", "2"], "name the model that these options are for"),
        (["tiny", "--target-s", "0"], "--target-s"),
        (["tiny", "--target-s", "nan"], "nan is no number of seconds"),
        (["tiny", "--max", "0"], "--max"),
    ],
)
def test_bounds_that_cannot_be_are_refused_with_the_mend(answer: Answer, arguments: list[str], said: str) -> None:
    found = answer(*arguments)
    assert found.exit_code != 0
    assert said in f"{found.exception} {found.output}"


def test_a_restart_leaves_alone_what_autoscale_took_away_while_it_waited(
    running: Supervisor, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a restart that waits for its place
    target = Target(0, "tiny", running.slots()[0].pid, is_ready=True)
    rolling = Rolling(running.settings, link, running, timeout_s=3, say=lambda _: None)
    monkeypatch.setattr(Exchange, "take_place", lambda *_, **__: False)
    # when the agent takes the slot meanwhile
    monkeypatch.setattr(rolling, "_wait_for_place", lambda _: roster.assign(link, "box", 0, None))
    rolling.one_at_a_time([target])
    # then
    assert [(one.number, one.how) for one in rolling.done] == [(0, "left")]
