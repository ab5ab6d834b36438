"""A reload beside other commands, and one that cannot be carried out: nothing is lost from sight, no slot keeps what failed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from broker import overlap, roster, settings
from broker.arrangement import arrange
from broker.connection import Link
from broker.errors import ConfigError, SupervisorError
from broker.overlap import Request
from broker.queue import Queue
from broker.roster import Assignment
from broker.settings import Settings
from operators import applied, models, plan, pool, pool_lock, readiness
from operators.desk import exchange, reassigning, reload, unapplied
from operators.desk.exchange import Exchange
from operators.desk.rolling import Rolling
from operators.desk.targets import Target
from operators.reach import reach
from operators.supervisor import Program, Supervisor
from tests.operators.conftest import MANIFEST, wait_until


def quiet(_: str) -> None: ...


def edited(given: Settings, table: str, old: str = "", new: str = "") -> Settings:
    """pool.toml with one more table in front, and something else in place of what there is."""
    file = Path(given.path)
    file.write_text(table + (file.read_text().replace(old, new) if old else file.read_text()))
    return settings.load(given.path, environ={})


@pytest.fixture
def link(running: Supervisor) -> Iterator[Link]:
    link = reach(running.settings)
    yield link
    link.close()


@pytest.mark.slow
def test_what_was_agreed_to_is_not_applied_over_what_others_did_meanwhile(running: Supervisor, link: Link) -> None:
    # given one reload that waits for its operator's answer
    good = Path(running.settings.path).read_text()
    late = reload.prepare(edited(running.settings, "[redis]\nconnect_s = 11.0\n"), link)
    # when another one is carried out
    Path(running.settings.path).write_text(good)
    now = edited(running.settings, "[redis]\nconnect_s = 12.0\n")
    reload.carry_out(reload.prepare(now, link), link, running, timeout_s=20, say=quiet)
    # then
    with pytest.raises(ConfigError, match="another command changed the pool meanwhile, nothing was applied"):
        reload.carry_out(late, link, running, timeout_s=20, say=quiet)
    assert applied.in_force(now).redis.connect_s == 12.0
    # when slots go that it would have left
    Path(running.settings.path).write_text(good)
    (one := Path(running.settings.path)).write_text(one.read_text().replace("slots = 2", "slots = 1"))
    fewer = reload.prepare(settings.load(running.settings.path, environ={}), link)
    pool.scale(now, "tiny", 3)
    # then it asks again
    with pytest.raises(ConfigError, match="look at it again"):
        reload.carry_out(fewer, link, running, timeout_s=20, say=quiet)
    assert len(roster.assignments(link, "box")) == 3


@pytest.mark.slow
def test_a_slot_that_restarted_just_before_the_new_settings_were_in_force_starts_again(
    running: Supervisor, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    pool.scale(running.settings, "tiny", 1)
    plan = reload.prepare(edited(running.settings, "[redis]\nconnect_s = 11.0\n[retire]\njitter = 0.2\n"), link)
    old = running.slots()[0].pid
    begin = applied.begin

    def begun(given: Settings, text: str) -> None:
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: running.slots()[0].pid not in (0, old))
        readiness.wait_until_ready(given, [0], timeout_s=10, say=quiet)
        begin(given, text)

    monkeypatch.setattr(applied, "begin", begun)
    # when
    done = reload.carry_out(plan, link, running, timeout_s=20, say=quiet)
    # then
    assert [(one.number, one.how) for one in done.restarted] in ([(0, "spare")], [(0, "in place")])


@pytest.mark.slow
def test_the_slot_that_was_not_ready_in_time_does_not_go_on_with_what_was_taken_back(
    running: Supervisor, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given no agent, so no spare
    running._tell("stopProcess", "agent", True, ignore=())
    wait_until(lambda: not roster.agent(link, "box"))
    loading: list[int] = []

    def never(*_: Any, **__: Any) -> None:
        loading.append(running.slots()[0].pid)
        raise SupervisorError("1 slot not ready within 0 s")

    monkeypatch.setattr(readiness, "wait_until_ready", never)
    plan = reload.prepare(edited(running.settings, "[retire]\njitter = 0.2\n"), link)
    # when
    with pytest.raises(SupervisorError, match="before are in force again; slot 0 starts again with them"):
        reload.carry_out(plan, link, running, timeout_s=20, say=quiet)
    # then
    assert applied.in_force(running.settings).retire.jitter == 0.1
    assert running.slots()[0].state in ("STARTING", "RUNNING")
    assert running.slots()[0].pid not in (0, *loading)


def test_slots_that_came_during_a_reload_that_is_taken_back_get_what_was_there_before(
    configured: Settings, redis_url: str
) -> None:
    # given
    link = Link(redis_url)
    link.connect()
    link.call("FLUSHALL")
    configured.var.mkdir()
    applied.write(configured, applied.file_text(configured))
    old, other = plan.assignment(configured, "tiny"), Assignment("gone", "/gone")
    held = {0: old, 1: old, 3: other}
    now = edited(configured, "", 'artifact = "tiny"', 'artifact = "new"')
    new, strange = plan.assignment(now, "tiny"), Assignment("small", "/small")
    applied.begin(now, applied.file_text(now))
    # when slot 0 has a spare in its place, 2; `scale` brought 4, 5 and one of a model that is new, and took 3
    arrange(link, "box", wanted={"tiny": 4, "small": 1}, assigned={1: new, 2: new, 4: new, 5: new, 6: strange})
    came = reassigning.put_back(now, link, held)
    applied.give_up(now)
    # then
    assert came == reassigning.PutBack(added=(4, 5), strangers=(6,))
    assert roster.assignments(link, "box") == dict.fromkeys((1, 2, 4, 5), old) | {6: strange}
    assert roster.wanted(link, "tiny") == {"box": 4}
    link.call("FLUSHALL")
    link.close()


@pytest.mark.slow
def test_scale_during_a_reload_that_is_taken_back_leaves_nothing_of_it(
    running: Supervisor, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a file with another artifact, and a model that is new
    root = Path(running.settings.root)
    shutil.copytree(root / "tiny", root / "new")
    shutil.copytree(root / "tiny", root / "small")
    (root / "small" / "manifest.json").write_text(json.dumps({**MANIFEST, "name": "small"}))
    models.artifact.seal(root / "small")
    now = edited(
        running.settings, '[models.small]\nartifact = "small"\nslots = 0\n', 'artifact = "tiny"', 'artifact = "new"'
    )
    before = roster.assignments(link, "box")

    def scaled(*_: Any) -> None:
        pool.scale(now, "tiny", 3)
        pool.scale(now, "small", 1)
        assert roster.assignments(link, "box")[2].artifact == str(root / "new")
        raise SupervisorError("enough")

    monkeypatch.setattr(Rolling, "one_at_a_time", scaled)
    # when
    with pytest.raises(
        SupervisorError, match="in force again; with the new ones run, until they restart: slot 2; "
    ) as told:
        reload.carry_out(reload.prepare(now, link), link, running, timeout_s=20, say=quiet)
    # then
    assert str(told.value).endswith("; drained, for they serve what the pool does not know: slot 3")
    assert roster.assignments(link, "box") == before | {2: before[0]}
    assert (roster.wanted(link, "tiny"), roster.wanted(link, "small")) == ({"box": 3}, {"box": 0})
    assert running.slots()[3].state == "STOPPED"


def test_a_restart_that_another_command_holds_up_keeps_no_place_from_those_that_retire(
    configured: Settings, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given two slots that are ready, and no agent
    link = Link(redis_url)
    link.connect()
    link.call("FLUSHALL")
    supervisor = Supervisor(configured)
    monkeypatch.setattr(supervisor, "slots", lambda: {0: Program("slot_00", "RUNNING", 7, 1, "")})
    monkeypatch.setattr(pool_lock, "LOCK_WAIT_S", 0.0)
    roster.want(link, "box", "tiny", 2)
    queues = {number: Queue("tiny", f"box/{number}.x") for number in (0, 1)}
    for number, queue in queues.items():
        roster.assign(link, "box", number, Assignment(model="tiny", artifact="tiny", device="cpu"))
        link.run_all([queue.pulse(f"box/{number}", (), ready_ms=60_000, failing_ms=0, frees_place=False)])
    # when
    rolling = Rolling(configured, link, supervisor, timeout_s=1, say=quiet)
    with pool_lock.changing(configured), pytest.raises(SupervisorError, match="is changing this pool"):
        rolling.one_at_a_time([Target(0, "tiny", 7, True)])
    # then
    assert link.run_all([queues[1].ask_to_retire("box/1", place_ttl_ms=1)]) == [1]
    link.close()


@pytest.mark.slow
def test_the_agent_decides_by_the_settings_in_force_while_slots_restart_and_after_they_were_taken_back(
    running: Supervisor, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = [running.agent().pid]

    def stopped(*_: Any) -> None:
        pids.append(running.agent().pid)
        raise SupervisorError("enough")

    monkeypatch.setattr(Rolling, "one_at_a_time", stopped)
    plan = reload.prepare(edited(running.settings, "[retire]\njitter = 0.2\n"), link)
    with pytest.raises(SupervisorError, match="enough; the settings of before are in force again"):
        reload.carry_out(plan, link, running, timeout_s=20, say=quiet)
    pids.append(running.agent().pid)
    assert len(set(pids)) == 3
    assert roster.agent(link, "box")["pid"] == str(pids[-1])


def test_what_cannot_be_put_back_while_redis_is_away_is_still_seen(configured: Settings) -> None:
    # given a reload halfway, and no Redis
    configured.var.mkdir()
    applied.write(configured, applied.file_text(configured))
    now = edited(configured, "[retire]\njitter = 0.2\n")
    applied.begin(now, applied.file_text(now))
    rolling = Rolling(now, Link("unix:///nowhere"), Supervisor(now), timeout_s=1, say=quiet)
    # when
    said = reload._take_back(reload.Reload(now, "", (), (), {}, {}), Supervisor(now), {}, rolling)
    # then
    assert said.startswith("the settings of before could not be put back (the embedded Redis does not answer")
    assert [one.key for one in unapplied.compare(configured)] == ["retire.jitter"]
    assert [one.key for one in unapplied.compare(now)] == ["retire.jitter"]
    # when the pool went down as well
    applied.remove(now)
    applied.give_up(now)
    assert applied.carried_out(now) is None


def test_a_spare_that_is_given_as_the_question_is_withdrawn_is_not_forgotten(
    configured: Settings, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given an agent that answers last
    link = Link(redis_url)
    link.connect()
    roster.beat_agent(link, "box", {"pid": 1})
    granted = Request("tiny", "restart", 7, 0, "loading", 2)
    monkeypatch.setattr(exchange, "ANSWER_WITHIN_S", 0.0)
    monkeypatch.setattr(exchange, "GONE_WITHIN_S", 0.1)
    locked = exchange.changing

    @contextmanager
    def answered_first(given: Settings) -> Iterator[None]:
        if overlap.requests(link, "box")[0].phase == "asked":
            overlap.write(link, "box", 0, granted)
        with locked(given):
            yield

    monkeypatch.setattr(exchange, "changing", answered_first)
    # when
    with pytest.raises(SupervisorError, match="its spare, slot 2, was not ready"):
        Exchange(configured, link, Target(0, "tiny", 7, True)).take_place(timeout_s=0)
    # then the agent is asked to take the spare away
    assert (overlap.requests(link, "box")[0].phase, overlap.requests(link, "box")[0].spare) == ("refused", 2)
    overlap.clear(link, "box")
    link.close()
