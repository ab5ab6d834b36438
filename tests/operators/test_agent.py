"""The agent under a real supervisord: what ends, hangs or is forgotten comes back by itself."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import keys, overlap, roster, settings
from broker.arrangement import arrange
from broker.connection import Link
from broker.overlap import Request
from operators import agent, pool, pool_lock, status, supervision
from operators.daemon import ENV_SLOT_COMMAND
from operators.deaths import Deaths
from operators.supervisor import Supervisor, is_alive
from tests.operators.conftest import FAKE_SLOT, wait_until, write_pool

PROGRAM = f'#!/bin/sh\nexec {sys.executable} {FAKE_SLOT} "$@"\n'


@pytest.fixture(scope="module")
def running() -> Iterator[Supervisor]:
    """One pool for all tests here: each leaves it as it found it. Its slot program is a script that a test may break."""
    root = Path(tempfile.mkdtemp(prefix="pool-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
            patch.delenv(name)
        patch.setenv(ENV_SLOT_COMMAND, str(root / "slot"))
        write_pool(root)
        file = root / "pool.toml"  # a short lease: after each reconnect the agent leaves it time before it sweeps
        file.write_text(file.read_text().replace("[slot]\n", "[slot]\nlease_s = 3\n"))
        (root / "slot").write_text(PROGRAM)
        (root / "slot").chmod(0o700)
        chosen = settings.load(str(root / "pool.toml"), environ={})
        pool.up(chosen, say=lambda _: None)
        try:
            supervisor = Supervisor(chosen)
            wait_until(lambda: supervisor.agent().state == "RUNNING")
            yield supervisor
        finally:
            pool.down(chosen, say=lambda _: None)
            shutil.rmtree(root)


@pytest.fixture
def link(running: Supervisor) -> Iterator[Link]:
    """A link to its Redis that may do everything; both slots are ready."""
    link = Link(running.settings.redis_url_as("admin"))
    link.connect()
    wait_until(lambda: ready(link) == {"box/0", "box/1"} and roster.agent(link, "box"))
    yield link
    link.close()


def kinds(link: Link, slot: str) -> list[tuple[str, str]]:
    """(kind, detail) of the events of a slot, oldest first."""
    return [
        (one.kind, one.detail.removesuffix(", noticed late"))
        for one in reversed(roster.events(link))
        if one.slot == slot
    ]


def ready(link: Link) -> set[str]:
    return set(roster.ready(link, "tiny"))


def test_a_slot_that_somebody_stopped_is_started_again_and_both_are_recorded(running: Supervisor, link: Link) -> None:
    running.stop_soon(0)
    wait_until(lambda: ("start again", "it is wanted and was STOPPED") in kinds(link, "box/0"))
    wait_until(lambda: running.slots()[0].state == "RUNNING")
    wait_until(lambda: ("exit", "exit 0 drained") in kinds(link, "box/0"))


def test_the_signal_that_ended_a_slot_is_in_the_record(running: Supervisor, link: Link) -> None:
    pid = running.slots()[1].pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: ("exit", "SIGKILL") in kinds(link, "box/1"))
    (ended,) = [one for one in roster.events(link) if (one.slot, one.kind) == ("box/1", "exit")]
    assert ended.pid == pid
    wait_until(lambda: kinds(link, "box/1")[-1][0] == "start")


def test_an_operators_command_goes_first(running: Supervisor, link: Link) -> None:
    with pool_lock.changing(running.settings):
        running.stop_slot(0)
        beats: set[str] = set()
        wait_until(lambda: beats.add(roster.agent(link, "box")["beat_ms"]) or len(beats) > 2)  # two whole rounds
        assert running.slots()[0].state == "STOPPED", "the agent looked, and left it"
    wait_until(lambda: running.slots()[0].state == "RUNNING")


def test_a_stuck_slot_is_killed_and_its_next_life_serves(running: Supervisor, link: Link) -> None:
    # a second agent, less patient than the pool's own
    rounds, record = agent.build(running.settings, Deaths(wake=list), silent_limit_s=0.5)
    rounds.start()
    wait_until(lambda: ready(link) == {"box/0", "box/1"})
    stuck = running.slots()[0].pid
    try:
        os.kill(stuck, signal.SIGSTOP)
        wait_until(lambda: not is_alive(stuck))
        wait_until(lambda: any(kind == "kill" for kind, _ in kinds(link, "box/0")))
        wait_until(lambda: running.slots()[0].pid not in (0, stuck) and "box/0" in ready(link))
    finally:
        rounds.stop()
    assert record is not None


def test_a_killed_agent_comes_back_and_goes_on(running: Supervisor, link: Link) -> None:
    first, since = running.agent().pid, len(kinds(link, "box/1"))
    with pool_lock.changing(running.settings):
        os.kill(first, signal.SIGKILL)
        running.stop_slot(1)
    wait_until(lambda: running.slots()[1].state == "RUNNING")
    assert running.agent().pid != first
    wait_until(lambda: status.snapshot(running.settings).problems == ())
    wait_until(lambda: ("exit", "exit 0 drained") in kinds(link, "box/1")[since:])


def test_delayed_jobs_move_and_leases_of_the_dead_return_while_no_slot_lives(running: Supervisor, link: Link) -> None:
    lane = keys.lane("slotless", "normal")
    link.call("XGROUP", "CREATE", lane, keys.GROUP, "0", "MKSTREAM")
    link.call("XADD", lane, "*", "b", b"held")
    ((_, ((entry, _),)),) = link.call("XREADGROUP", "GROUP", keys.GROUP, "gone/0.x", "STREAMS", lane, ">")
    link.call("XCLAIM", lane, keys.GROUP, "gone/0.x", 0, entry, "IDLE", 60_000)
    link.call("HSET", keys.delayed_bodies("slotless"), "late", b"2 0 1 5 a job")
    link.call("ZADD", keys.delayed("slotless"), 1, "late")
    link.call("SADD", keys.models(), "slotless")
    wait_until(lambda: link.call("XLEN", lane) == 2)
    wait_until(lambda: link.call("XPENDING", lane, keys.GROUP, "-", "+", 5)[0][1] == b"returned")
    assert link.call("ZCARD", keys.delayed("slotless")) == 0


def test_a_flushed_redis_gets_the_assignments_back_and_nothing_else(running: Supervisor, link: Link) -> None:
    wait_until(lambda: len(kinds(link, "box/1")) >= 1)
    before = roster.assignments(link, "box")
    link.call("FLUSHALL")
    wait_until(lambda: roster.assignments(link, "box") == before)
    assert roster.wanted(link, "tiny") == {"box": 2}
    assert not link.call("EXISTS", keys.delayed("tiny"), keys.counters("tiny"), keys.lane("tiny", "normal"))


def test_an_outage_that_comes_back_empty_gives_the_assignments_back(running: Supervisor, link: Link) -> None:
    # given
    before, since = roster.assignments(link, "box"), time.monotonic()
    (file,) = running.settings.var.rglob("appendonly.aof")
    # when
    running._call("stopProcess", "redis")
    file.unlink()
    wait_until(lambda: time.monotonic() > since + 3.5)
    running.start_redis()
    # then
    back = Link(link.url)
    back.connect_within(5)
    wait_until(lambda: roster.assignments(back, "box") == before)
    assert roster.wanted(back, "tiny") == {"box": 2}
    wait_until(lambda: ready(back) == {"box/0", "box/1"})
    back.close()


def test_a_model_scaled_to_none_gets_nothing_back(running: Supervisor, link: Link) -> None:
    pool.scale(running.settings, "tiny", 0)
    beats: set[str] = set()
    wait_until(lambda: beats.add(roster.agent(link, "box")["beat_ms"]) or len(beats) > 2)  # two whole rounds
    assert roster.assignments(link, "box") == {}
    found = [one.mend for one in status.snapshot(running.settings).problems]
    pool.scale(running.settings, "tiny", 2)
    assert found == ["penstock scale tiny 2"]


def test_a_drain_of_all_slots_that_was_killed_behind_its_word_is_finished_by_the_agent(
    running: Supervisor, link: Link
) -> None:
    try:
        arrange(link, "box", wanted={"tiny": 0}, assigned={0: None, 1: None})
        wait_until(lambda: {running.slots()[number].state for number in (0, 1)} == {"STOPPED"})
        assert ("surplus", "it is assigned to nothing") in kinds(link, "box/1")
    finally:
        pool.scale(running.settings, "tiny", 2)


@pytest.mark.parametrize("is_running", [True, False])
def test_up_starts_an_agent_that_somebody_stopped(running: Supervisor, link: Link, is_running: bool) -> None:
    before = running.agent().pid
    if not is_running:
        running._call("stopProcess", "agent")
        assert running.agent().state == "STOPPED"
    pool.up(running.settings, say=lambda _: None)
    wait_until(lambda: running.agent().state == "RUNNING")
    assert (running.agent().pid == before) == is_running


def test_a_request_for_a_spare_is_refused_with_the_reason_and_the_spare_taken_back(
    running: Supervisor, link: Link
) -> None:
    (running.settings.var / "slot-2.cannot-load").write_text("load_failed: no such device")
    asked = Request("tiny", "max_jobs", running.slots()[0].pid, 0)
    link.call(*overlap.ask("box", 0, asked))
    wait_until(lambda: overlap.requests(link, "box").get(0, asked).phase == "refused")
    wait_until(lambda: overlap.requests(link, "box")[0].spare == -1)
    assert overlap.requests(link, "box")[0].why == "the spare, slot 2, is backing off"
    assert list(roster.assignments(link, "box")) == [0, 1]
    assert running.slots()[2].state == "STOPPED"
    assert link.call("ZCARD", keys.failing("tiny")) == 0, "it must not hold up the others' retirement"


def test_scale_counts_a_spare_that_has_not_taken_over_as_nobody(running: Supervisor, link: Link) -> None:
    pid = running.agent().pid
    os.kill(pid, signal.SIGSTOP)  # so that the swap stands still
    try:
        given = roster.assignments(link, "box")[0]
        loading = Request("tiny", "max_jobs", running.slots()[0].pid, 0, "loading", 3)
        overlap.write(link, "box", 0, loading)
        roster.assign(link, "box", 3, given)
        assert pool.scale(running.settings, "tiny", 3).started == (2,)
        assert pool.scale(running.settings, "tiny", 2).stopped == (2,)
        assert list(roster.assignments(link, "box")) == [0, 1, 3]
        assert roster.wanted(link, "tiny") == {"box": 2}
    finally:
        overlap.clear(link, "box")
        roster.assign(link, "box", 3, None)
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(("kind", "number"), [("revive", 0), ("pause", 1)])
def test_a_program_that_cannot_be_run_any_more_is_not_spun_and_runs_once_it_can(
    running: Supervisor, link: Link, kind: str, number: int
) -> None:
    # given a slot program that breaks while the pool is up: supervisord gives up the one, and would spin the other
    program = Path(running.settings.root) / "slot"
    slot = f"box/{number}"
    since = len(kinds(link, slot))
    if kind == "revive":
        program.chmod(0o600)
    else:
        program.write_text("#!/nowhere/interpreter\n")
    # when
    os.kill(running.slots()[number].pid, signal.SIGKILL)
    # then
    wait_until(lambda: kind in [one for one, _ in kinds(link, slot)[since:]], timeout_s=15)
    program.write_text(PROGRAM)
    program.chmod(0o700)
    wait_until(lambda: slot in ready(link) and running.slots()[number].state == "RUNNING", timeout_s=15)


def test_a_pool_without_a_beating_agent_is_a_problem_in_status(
    running: Supervisor, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "QUIET_S", 0)
    pid = running.agent().pid
    found = status.snapshot(running.settings)
    assert found.agent is not None
    assert (found.agent.pid, found.problems) == (pid, ())
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    link.call("DEL", keys.agent("box"))
    (problem,) = status.snapshot(running.settings).problems
    (finding,) = supervision.agent(running.settings)
    os.kill(pid, signal.SIGCONT)
    assert problem.text.startswith(f"the agent (pid {pid}) runs and does not beat: stuck slots are not killed")
    assert problem.mend == f"kill -9 {pid}; supervisord starts the next"
    assert (finding.level, finding.text, finding.mend) == ("warn", problem.text, problem.mend)
