"""What is asked of a model: figures that leave paused lanes out, the oldest job, and slots of hosts that live."""

from __future__ import annotations

import pytest

from broker import keys, roster
from broker.connection import Link
from broker.demand import Demand, demands
from broker.queue import Queue


def of(link: Link, model: str = "m") -> Demand:
    return demands(link, [model], roster.now_ms(link))[model]


def add(link: Link, lane: str, count: int, first_ms: int = 0) -> None:
    for at in range(count):
        link.call("XADD", keys.lane("m", lane), f"{first_ms + at}-1" if first_ms else "*", "b", b"job")


def came_ms(link: Link, found: Demand) -> int:
    """When the oldest came, of how old it is."""
    assert found.oldest_ms is not None
    return roster.now_ms(link) - found.oldest_ms


def test_a_model_nobody_asked_anything_of_has_no_demand(link: Link) -> None:
    assert of(link) == Demand(0, 0, None, 0, {}, frozenset(), frozenset(), frozenset())
    assert demands(link, [], 0) == {}


def test_jobs_of_all_lanes_count_and_the_oldest_is_told(link: Link) -> None:
    Queue("m", "x").ensure_groups(link)
    add(link, "low", 3, first_ms=5_000)
    add(link, "high", 2, first_ms=60_000)
    link.call("XREADGROUP", "GROUP", keys.GROUP, "box/0.1", "COUNT", 2, "STREAMS", keys.lane("m", "low"), ">")
    link.call(
        "HSET", keys.counters("m"), "done", 5, "failed", 1, "dead", 1, "expired", 1, "cancelled", 1, "submitted", 99
    )
    found = of(link)
    assert (found.jobs, found.claimed, found.ended) == (5, 2, 9)
    assert came_ms(link, found) == pytest.approx(5_000, abs=2_000)


def test_jobs_of_a_paused_lane_are_nobody_s_demand(link: Link) -> None:
    add(link, "low", 3, first_ms=5_000)
    add(link, "high", 2, first_ms=60_000)
    link.call("HSET", keys.paused("m"), "low", "{}")
    found = of(link)
    assert (found.jobs, found.paused, found.is_paused) == (2, {"low"}, False)
    assert came_ms(link, found) == pytest.approx(60_000, abs=2_000)
    link.call("HSET", keys.paused("m"), "high", "{}", "normal", "{}")
    assert (of(link).jobs, of(link).oldest_ms, of(link).is_paused) == (0, None, True)


def test_what_a_host_wants_counts_while_its_agent_lives(link: Link) -> None:
    roster.want(link, "box", "m", 2)
    roster.want(link, "dead", "m", 5)
    roster.beat_agent(link, "box", {"pid": 1})
    link.call("ZADD", keys.ready("m"), roster.now_ms(link) + 60_000, "box/0", roster.now_ms(link) - 1, "box/1")
    link.call("ZADD", keys.failing("m"), roster.now_ms(link) + 60_000, "box/1")
    found = of(link)
    assert (found.wanted, found.ready, found.failing) == ({"box": 2}, {"box/0"}, {"box/1"})


def test_any_number_of_models_takes_two_round_trips(link: Link) -> None:
    trips = 0
    call_all = link.call_all

    def counted(commands: list[object]) -> list[object]:
        nonlocal trips
        trips += 1
        return call_all(commands)  # type: ignore[arg-type]

    link.call_all = counted  # type: ignore[method-assign, assignment]
    add(link, "low", 1)
    demands(link, [f"m{at}" for at in range(20)] + ["m"], roster.now_ms(link))
    assert trips == 2
