"""Autoscaling with real slots under live traffic: up while they cannot keep up, down when less is allowed, no request the worse for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from broker import autoscale, roster
from broker.autoscale import Override
from broker.connection import Link
from broker.settings import Settings
from operators.supervisor import Supervisor
from producer import Producer
from tests.end_to_end.load import Load
from tests.wait import wait_until

SCALED = "max_rows = 1\n[models.mlp.autoscale]\nmost = 3\ntarget_s = 0.002\n"


@pytest.mark.slow
def test_scaling_up_and_down_under_load_fails_no_request_and_restarts_no_slot_that_stays(
    pooled: Callable[..., Settings], pool_link: Callable[[Settings], Link]
) -> None:
    # given one slot, which takes a row at a time: twenty requests wait for longer than the target
    chosen = pooled(SCALED, slots=1)
    link, supervisor = pool_link(chosen), Supervisor(chosen)
    first = supervisor.slots()[0].pid
    # when
    with Load(chosen.redis_url) as load:
        wait_until(lambda: len(roster.ready(link, "mlp")) == 3, "there were three", 40)
    # then
    assert not load.failures
    assert load.answered > 0
    pids = {number: supervisor.slots()[number].pid for number in range(3)}
    assert pids[0] == first
    # when less is allowed, and requests come one at a time
    autoscale.override(link, "box", "mlp", Override(most=1))
    failures: list[Exception] = []
    is_over = threading.Event()
    thread = threading.Thread(target=trickle, args=(chosen.redis_url, failures, is_over))
    thread.start()
    try:
        wait_until(lambda: len(roster.assignments(link, "box")) == 1, "one was left", 60)
    finally:
        is_over.set()
        thread.join()
    # then
    assert not failures
    (left,) = roster.assignments(link, "box")
    assert supervisor.slots()[left].pid == pids[left]
    assert roster.wanted(link, "mlp") == {"box": 1}
    assert {one.reason for one in roster.exits(link)} == {"drained"}


def trickle(url: str, failures: list[Exception], is_over: threading.Event) -> None:
    with Producer(url) as producer:
        while not is_over.wait(0.02):
            try:
                producer.submit("mlp", np.zeros(64, np.float32), deadline_s=20.0).result(20.0)
            except Exception as error:  # noqa: BLE001 - every failure is what the test is about
                failures.append(error)
