"""The operator's desk on a pool of real slots under load: nothing it does fails a request."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from broker import overlap, roster
from broker.connection import Link
from broker.settings import Settings, load
from operators import pool, readiness
from operators.desk import draining, reload, targets
from operators.desk.rolling import Rolling
from operators.supervisor import Supervisor
from tests.end_to_end.load import Load
from tests.models import mlp
from tests.wait import wait_until

Start = Callable[..., Settings]
Connect = Callable[[Settings], Link]


def quiet(_: str) -> None:
    pass


def pids(supervisor: Supervisor) -> dict[int, int]:
    return {number: program.pid for number, program in supervisor.slots().items() if program.pid}


def goes_on(traffic: Load) -> None:
    """A few more answers."""
    before = traffic.answered
    wait_until(lambda: traffic.answered > before + 100, "the load goes on", timeout=20)


def test_scaling_1_to_4_to_1_and_restarting_the_last_fails_no_request_and_restarts_no_slot_that_stays(
    pooled: Start, pool_link: Connect
) -> None:
    # given
    chosen = pooled(slots=1)
    link, supervisor = pool_link(chosen), Supervisor(chosen)
    with Load(chosen.redis_url, beside=pool_link(chosen)) as traffic:
        before = pids(supervisor)
        goes_on(traffic)
        # when
        grown = pool.scale(chosen, "mlp", 4)
        readiness.wait_until_ready(chosen, grown.started, timeout_s=60, say=quiet, since_ms=grown.since_ms)
        at_most = pids(supervisor)
        goes_on(traffic)
        pool.scale(chosen, "mlp", 1)
        goes_on(traffic)
        at_last = pids(supervisor)
        left = {one.slot: one.reason for one in roster.exits(link)}
        rolling = Rolling(chosen, link, supervisor, timeout_s=60, say=quiet)
        rolling.one_at_a_time(targets.choose(chosen, link, supervisor))
        goes_on(traffic)
    # then
    assert (traffic.failures, traffic.unserved) == ([], 0)
    assert len(at_most) == 4
    assert at_most.items() >= before.items()
    assert at_last == before
    assert left == {"box/1": "drained", "box/2": "drained", "box/3": "drained"}
    assert [(one.number, one.how, one.now) for one in rolling.done] == [(0, "spare", 1)]
    assert list(pids(supervisor)) == [1]


@pytest.mark.slow
@pytest.mark.parametrize("has_agent", [True, False])
def test_a_rolling_restart_under_load_fails_no_request_with_spares_and_without(
    pooled: Start, pool_link: Connect, has_agent: bool
) -> None:
    # given
    chosen = pooled(slots=2)
    link, supervisor = pool_link(chosen), Supervisor(chosen)
    if not has_agent:
        supervisor._tell("stopProcess", "agent", True, ignore=())
        wait_until(lambda: not roster.agent(link, "box"), "its beat has faded", timeout=20)
    before = pids(supervisor)
    with Load(chosen.redis_url, beside=pool_link(chosen)) as traffic:
        goes_on(traffic)
        # when
        rolling = Rolling(chosen, link, supervisor, timeout_s=60, say=quiet)
        rolling.one_at_a_time(targets.choose(chosen, link, supervisor))
        goes_on(traffic)
    # then
    assert (traffic.failures, traffic.unserved) == ([], 0)
    how = "spare" if has_agent else "in place"
    assert [(one.number, one.how) for one in rolling.done] == [(0, how), (1, how)]
    after = pids(supervisor)
    assert len(after) == 2
    assert not set(after.values()) & set(before.values())
    assert {one.reason for one in roster.exits(link)} == {"drained"}
    assert roster.wanted(link, "mlp") == {"box": 2}
    assert not overlap.requests(link, "box")


@pytest.mark.slow
def test_a_reload_under_load_restarts_what_it_concerns_and_a_bad_one_is_taken_back(
    pooled: Start, pool_link: Connect
) -> None:
    # given
    chosen = pooled(slots=2)
    link, supervisor, file = pool_link(chosen), Supervisor(chosen), Path(chosen.path)
    with Load(chosen.redis_url) as traffic:
        goes_on(traffic)
        # when it is given an artifact whose answers are not those it was built with
        mlp(file.parent / "other")
        manifest = file.parent / "other" / "manifest.json"
        told = json.loads(manifest.read_text())
        told["golden"]["outputs"]["logits"]["data"] = base64.b64encode(bytes(32)).decode()
        manifest.write_text(json.dumps(told))
        good = file.read_text()
        file.write_text(good.replace('artifact = "mlp"', 'artifact = "other"'))
        before = pids(supervisor)
        with pytest.raises(
            Exception, match=r"slot 0 of mlp: .*left alone: slot 1; the settings of before are in force"
        ):
            apply(load(str(file)), link, supervisor)
        # then
        assert pids(supervisor) == before
        assert {one.artifact for one in roster.assignments(link, "box").values()} == {str(file.parent / "mlp")}
        # when
        file.write_text(good + "max_rows = 32\n")
        done = apply(load(str(file)), link, supervisor)
        goes_on(traffic)
    # then
    assert len(done.restarted) == 2
    assert not set(pids(supervisor).values()) & set(before.values())
    assert not traffic.failures


@pytest.mark.slow
def test_draining_under_load_fails_no_request_and_the_agent_leaves_it_so(pooled: Start, pool_link: Connect) -> None:
    chosen = pooled(slots=2)
    link, supervisor = pool_link(chosen), Supervisor(chosen)
    with Load(chosen.redis_url) as traffic:
        goes_on(traffic)
        done = draining.drain(chosen, link, supervisor, targets.choose(chosen, link, supervisor, slot=0), say=quiet)
        since_ms = int(roster.agent(link, "box")["since_ms"])
        goes_on(traffic)
        wait_until(lambda: int(roster.now_ms(link)) > since_ms + 3000, "the agent has looked a few times")
    assert (done.slots, done.wanted) == ((0,), {"mlp": 1})
    assert list(pids(supervisor)) == [1]
    assert not traffic.failures


def apply(settings: Settings, link: Link, supervisor: Supervisor) -> reload.Reloaded:
    return reload.carry_out(reload.prepare(settings, link), link, supervisor, timeout_s=60, say=quiet)
