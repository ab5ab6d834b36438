"""One slot of a real model that retires again and again: with overlap there is never a moment without a ready one."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from broker import overlap, roster
from broker.connection import Link
from broker.settings import Settings
from operators.supervisor import Supervisor
from producer import Producer
from tests.wait import wait_until

RETIRE = "[retire]\nmax_jobs = 40\njitter = 0.0\nmin_life_s = 0\nmin_life_loads = 0\noverlap = true\n"


def test_a_single_slot_is_replaced_twice_before_it_stops_and_the_two_swap_numbers(
    pooled: Callable[..., Settings], pool_link: Callable[[Settings], Link]
) -> None:
    # given
    chosen = pooled(RETIRE, slots=1)
    link, beside = pool_link(chosen), pool_link(chosen)
    is_over, looks = threading.Event(), [0, 0]  # with a ready slot, without

    def watch() -> None:
        while not is_over.wait(0.005):
            looks[not roster.ready(beside, "mlp")] += 1

    watcher = threading.Thread(target=watch)
    watcher.start()

    def retired() -> list[tuple[str, str]]:
        return [(one.slot, one.reason) for one in reversed(roster.exits(link))]

    # when
    x = list(np.zeros((20, 64), np.float32))
    with Producer(chosen.redis_url) as producer:

        def feed() -> bool:
            assert len([handle.result(20) for handle in producer.submit_many("mlp", x)]) == 20
            return len(retired()) >= 2

        wait_until(feed, "two slots retired", timeout=40)
    is_over.set()
    watcher.join()
    # then
    assert looks[1] == 0
    assert looks[0] > 100
    assert retired()[:2] == [("box/0", "max_jobs"), ("box/1", "max_jobs")]
    assert roster.wanted(link, "mlp") == {"box": 1}
    wait_until(lambda: len(roster.assignments(link, "box")) == 1, "the swap is over", timeout=20)
    wait_until(lambda: all(one.spare < 0 for one in overlap.requests(link, "box").values()), "nothing is left of it")
    assert [one.state for one in Supervisor(chosen).slots().values()].count("RUNNING") == 1
