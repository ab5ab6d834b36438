"""Garbage that somebody writes into the lanes ends as dead letters; the slot goes on and serves the next good job."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker import keys, roster
from broker.connection import Link
from broker.embedded import temporary_server
from broker.messages import LANES
from broker.roster import Assignment
from broker.settings import Settings
from producer import Producer
from tests import models
from tests.broker.actors import MODEL as TINY
from tests.broker.actors import Slot, publish
from tests.fuzz.conftest import fuzz
from tests.fuzz.strategies import jobs, spoiled
from tests.wait import wait_until
from workers.faults import broken
from workers.life import Life

MODEL = "mlp"
metas = st.binary(max_size=40) | st.from_regex(rb"[0-9]{1,30} [0-9]{1,30} [0-9]{1,30}", fullmatch=True)
fields = st.one_of(
    st.tuples(st.just(b"b"), spoiled(jobs())),
    st.tuples(st.just(b"b"), st.binary(max_size=30), st.just(b"m"), metas),
    st.tuples(st.just(b"b"), spoiled(jobs()), st.just(b"m"), metas),
    st.lists(st.binary(max_size=8), min_size=1, max_size=3).map(lambda all_: tuple(all_ + all_)),
)
bodies = st.one_of(
    st.binary(max_size=40), st.tuples(metas, spoiled(jobs())).map(lambda both: b"2 " + both[0] + b" " + both[1])
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Life]]:
    """A slot that serves the mlp model, its own server behind it."""
    folder = tmp_path_factory.mktemp("claims")
    artifact = models.mlp(folder / MODEL)
    with temporary_server(folder / "redis") as url:
        raw: dict[str, Any] = {
            "redis": {"url": url}, "slot": {"block_ms": 20, "beat_s": 0.05, "lease_s": 5.0},
            "pool": {"var_dir": str(folder / "var"), "host": "h"}, "models": {MODEL: {"artifact": str(artifact.folder)}},
            "retire": {"max_jobs": 0},
        }  # fmt: skip
        link = Link(url)
        link.connect()
        roster.assign(link, "h", 0, Assignment(MODEL, str(artifact.folder)))
        life = Life(msgspec.convert(raw, Settings), 0, is_inline=True)
        thread = threading.Thread(target=life.live)
        thread.start()
        try:
            wait_until(lambda: roster.ready(link, MODEL), "the slot is ready", timeout=20)
            yield url, life
        finally:
            life.stop()
            thread.join(20)
            link.close()


@settings(fuzz, max_examples=max(10, fuzz.max_examples // 6))
@given(entries=st.lists(st.tuples(st.sampled_from(LANES), fields), max_size=12), delayed=st.lists(bodies, max_size=3))
def test_garbage_in_the_lanes_costs_the_next_job_nothing(
    served: tuple[str, Life], entries: list[tuple[str, tuple[bytes, ...]]], delayed: list[bytes]
) -> None:
    # given
    url, life = served
    link = Link(url)
    link.connect()
    for number, body in enumerate(delayed):
        link.call("HSET", keys.delayed_bodies(MODEL), f"garbage-{number}", body)
        link.call("ZADD", keys.delayed(MODEL), 1, f"garbage-{number}")
    for lane, content in entries:
        link.call("XADD", keys.lane(MODEL, lane), "*", *content)
    # then
    with Producer(url) as producer:
        assert producer.infer(MODEL, np.zeros(64, np.float32), 20).outputs["logits"].shape == (2,)
    lanes = [keys.lane(MODEL, lane) for lane in LANES]
    wait_until(lambda: not sum(link.call("XLEN", lane) for lane in lanes), "the lanes are empty", timeout=10)
    wait_until(
        lambda: link.call("ZCARD", keys.delayed(MODEL)) == 0 or not delayed, "nothing is due any more", timeout=10
    )
    assert not life.has_ended
    assert life.board.state == "ready", life.board.reason
    link.close()


@fuzz
@given(entries=st.lists(st.tuples(st.sampled_from(LANES), fields), max_size=6), delayed=st.lists(bodies, max_size=3))
def test_no_script_fails_for_what_lies_in_a_lane(
    served: tuple[str, Life], entries: list[tuple[str, tuple[bytes, ...]]], delayed: list[bytes]
) -> None:
    # given a queue that no slot serves, so that the scripts meet everything
    link = Link(served[0])
    link.connect()
    publish(link)
    slot = Slot(link)
    for number, body in enumerate(delayed):
        link.call("HSET", keys.delayed_bodies(TINY), f"garbage-{number}", body)
        link.call("ZADD", keys.delayed(TINY), 1, f"garbage-{number}")
    for lane, content in entries:
        link.call("XADD", keys.lane(TINY, lane), "*", *content)
    # when
    link.call(*slot.queue.sweep(lease_ms=0))
    assert link.call(*slot.queue.move()) == len(delayed)
    claimed = slot.claimed(1000)
    slot.give_back(claimed.jobs[:1])
    returned = slot.claimed(1000)
    link.call(*slot.queue.fail(map(broken, [*claimed.broken, *returned.broken])))
    slot.fail(claimed.jobs[1:2], "retry", delay_ms=60_000)
    slot.fail(claimed.jobs[2:3], "dead")
    slot.settle([*claimed.jobs[3:], *returned.jobs])
    # then
    assert [link.call("XLEN", keys.lane(TINY, lane)) for lane in LANES] == [0, 0, 0]
    for name in (keys.delayed(TINY), keys.delayed_bodies(TINY), keys.dead(TINY)):
        link.call("DEL", name)
    link.close()
