"""The pool as operators run it: nothing is lost and nothing answered twice while slots and engines die and retire."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import numpy as np

from broker import keys, roster
from broker.connection import Link
from broker.settings import Settings
from operators import pool, readiness
from operators.supervisor import Supervisor, is_alive
from producer import Producer
from tests.wait import wait_until

Start = Callable[..., Settings]
Connect = Callable[[Settings], Link]


def rows(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(1).normal(size=(count, 64)).astype(np.float32))


def counter(link: Link, name: str) -> int:
    return int(link.call("HGET", keys.counters("mlp"), name) or 0)


def test_kill_9_of_a_slot_and_of_an_engine_loses_nothing_and_answers_nothing_twice(
    pooled: Start, pool_link: Connect
) -> None:
    chosen = pooled()
    link = pool_link(chosen)
    before = roster.slots(link)
    with Producer(chosen.redis_url) as producer:
        handles = producer.submit_many("mlp", rows(3000))
        os.kill(int(before["box/0"]["pid"]), signal.SIGKILL)
        handles += producer.submit_many("mlp", rows(3000))
        os.kill(int(before["box/1"]["engine_pid"]), signal.SIGKILL)
        handles += producer.submit_many("mlp", rows(3000))
        results = [handle.result(30) for handle in handles]
    assert len({result.id for result in results}) == 9000
    assert counter(link, "done") == counter(link, "submitted") == 9000
    wait_until(lambda: len(roster.ready(link, "mlp")) == 2, "both slots are back", timeout=20)
    assert not is_alive(int(before["box/0"]["engine_pid"])), "an orphan would hold device memory"
    reasons = {(exit.slot, exit.reason) for exit in roster.exits(link)}
    assert {("box/0", "killed"), ("box/1", "engine_died")} <= reasons
    states = {program.state for program in Supervisor(chosen).slots().values()}
    assert states == {"RUNNING", "STOPPED"}, "none is FATAL"


def test_slots_retire_at_their_job_limit_one_at_a_time_and_no_request_notices(
    pooled: Start, pool_link: Connect
) -> None:
    chosen = pooled("[retire]\nmax_jobs = 200\njitter = 0.1\nmin_life_s = 0\nmin_life_loads = 0\n")
    link = pool_link(chosen)
    never_ready = submitted = 0

    def retired() -> list[roster.Exit]:
        return [one for one in roster.exits(link) if one.reason == "max_jobs"]

    with Producer(chosen.redis_url) as producer:

        def feed() -> bool:
            nonlocal never_ready, submitted
            handles = producer.submit_many("mlp", rows(50))
            submitted += 50
            never_ready += not roster.ready(link, "mlp")
            assert len([handle.result(20) for handle in handles]) == 50
            return len(retired()) >= 4

        wait_until(feed, "four slots retired", timeout=60)
    assert never_ready == 0
    assert {one.slot for one in retired()} == {"box/0", "box/1"}
    assert counter(link, "done") == submitted
    wait_until(lambda: len(roster.ready(link, "mlp")) == 2, "both slots are back", timeout=20)


def test_down_drains_and_what_was_not_begun_waits_for_the_next_up(pooled: Start, pool_link: Connect) -> None:
    chosen = pooled(slots=1)
    with Producer(chosen.redis_url) as producer:
        handles = producer.submit_many("mlp", rows(20_000), result_ttl_s=300)
        ids = [handle.id for handle in handles]
    pool.down(chosen, say=lambda _: None)
    pool.up(chosen, say=lambda _: None)
    readiness.wait_until_ready(chosen, [0], timeout_s=60, say=lambda _: None)
    with Producer(chosen.redis_url) as producer:
        assert producer.result(ids[0], timeout=30).id == ids[0]
        assert producer.result(ids[-1], timeout=30).id == ids[-1]
    link = pool_link(chosen)
    wait_until(lambda: counter(link, "done") == 20_000, "all are done, none twice", timeout=20)


def test_a_slot_killed_with_9_takes_its_engine_along(pooled: Start, pool_link: Connect) -> None:
    chosen = pooled(slots=1)
    state = roster.slots(pool_link(chosen))["box/0"]
    os.kill(int(state["pid"]), signal.SIGKILL)
    wait_until(lambda: not is_alive(int(state["engine_pid"])), "the engine is gone", timeout=5)
