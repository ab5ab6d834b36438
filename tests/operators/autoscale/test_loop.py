"""Autoscaling in the agent, on a real Redis: which actions come of what is seen, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker import autoscale, keys, roster, timetable
from broker.autoscale import Override
from broker.connection import Link
from broker.overlap import Request
from broker.roster import Assignment
from broker.settings import Settings
from broker.settings_tables import AutoscaleSettings, ModelSettings, PoolSettings
from broker.timetable import Learned
from operators.autoscale import dry, speed
from operators.autoscale.loop import LOOK_S, Autoscale
from operators.hardware import Gpu, Hardware
from operators.places import Action, Place, Seen

GB = 1 << 30
SCALE = AutoscaleSettings(least=1, most=4, target_s=1.0)
GIVEN = Assignment("m", "/nowhere")


@pytest.fixture
def link(redis_url: str) -> Iterator[Link]:
    link = Link(redis_url)
    link.connect()
    link.call("FLUSHALL")
    roster.beat_agent(link, "box", {"pid": 1})
    yield link
    link.close()


def settings(*, device: str = "cpu", scale: AutoscaleSettings = SCALE) -> Settings:
    models = {
        "m": ModelSettings("/nowhere", slots=1, device=device, autoscale=scale),
        "other": ModelSettings("/nowhere"),
    }
    return Settings(pool=PoolSettings(most_slots=5, host="box"), models=models)


def scaler(chosen: Settings, *, free_bytes: int | None = 64 * GB, gpus: Hardware | None = None) -> Autoscale:
    return Autoscale(chosen, hardware=lambda: gpus, free_host_bytes=lambda: free_bytes)


def ready(number: int, *, held: int = 0, given: Assignment = GIVEN) -> Place:
    return Place(number, "RUNNING", pid=100 + number, assignment=given, is_current=True, is_ready=True, word="ready",
                 held=held, load_s=0.5, host_bytes=GB)  # fmt: skip


def seen(link: Link, *places: Place, requests: dict[int, Request] | None = None) -> Seen:
    """A host of six places; those not given are free. Redis' list of ready slots follows."""
    for place in places:
        if place.is_ready:
            link.call("ZADD", keys.ready("m"), roster.now_ms(link) + 60_000, f"box/{place.number}")
    rest = {number: Place(number, "STOPPED") for number in range(6)}
    return Seen(roster.now_ms(link), rest | {one.number: one for one in places}, requests or {})


def wait_in_line(link: Link, jobs: int) -> None:
    link.call_all([("XADD", keys.lane("m", "normal"), "*", "b", b"job") for _ in range(jobs)])


def learn(link: Link, device: str = "cpu") -> None:
    """T: 8 rows in 80 ms, so 100 jobs a second."""
    link.call(*timetable.save("m", "", f"box/{device}", [Learned(8, (), 80.0, 90.0)]))


def told(actions: list[Action]) -> list[tuple[str, int]]:
    return [(one.verb, one.number) for one in actions]


def test_a_backlog_starts_slots_on_free_numbers_as_scale_would(link: Link) -> None:
    loop, view = scaler(settings()), seen(link, ready(0, held=8), ready(2, given=Assignment("other", "/o")))
    learn(link)
    wait_in_line(link, 2000)
    roster.want(link, "box", "m", 1)
    assert loop.look(link, view, 10.0)
    actions = loop.actions(view)
    assert told(actions) == [(verb, number) for number in (1, 3, 4) for verb in ("assign", "start", "want")]
    assert [one.count for one in actions if one.verb == "want"] == [2, 3, 4]
    assert {one.assignment for one in actions if one.verb == "assign"} == {GIVEN}
    assert actions[1].kind == "autoscale"
    assert "jobs/s" in actions[1].why
    state = autoscale.decode(loop.told())["m"]
    assert (state.slots, state.wanted, state.most, state.jobs, state.slot_per_s) == (1, 4, 4, 2000, 100.0)


def test_between_two_looks_there_is_nothing_to_do_and_redis_is_not_asked(link: Link) -> None:
    loop, view = scaler(settings()), seen(link, ready(0))
    roster.want(link, "box", "m", 1)
    assert not loop.look(link, view, 10.0)
    wait_in_line(link, 2)
    learn(link)
    assert not loop.look(link, view, 10.0 + LOOK_S / 2)
    assert autoscale.decode(loop.told())["m"].jobs == 0
    loop.look(link, view, 10.0 + LOOK_S)
    assert autoscale.decode(loop.told())["m"].jobs == 2


def test_what_changed_between_the_look_and_the_lock_is_left_for_the_next_look(link: Link) -> None:
    loop, view = scaler(settings()), seen(link, ready(0, held=8))
    learn(link)
    wait_in_line(link, 2000)
    assert loop.look(link, view, 10.0)
    assert loop.actions(seen(link, ready(0, held=8), ready(1))) == []


def test_a_number_that_a_spare_was_just_given_is_not_taken(link: Link) -> None:
    loop, view = scaler(settings()), seen(link, ready(0, held=8))
    learn(link)
    wait_in_line(link, 2000)
    loop.look(link, view, 10.0)
    assert {one.number for one in loop.actions(view, [Action("start", 1)])} == {2, 3, 4}


def test_slots_are_started_only_into_memory_that_is_free_and_the_rest_is_said(link: Link) -> None:
    loop, view = scaler(settings(), free_bytes=3 * GB), seen(link, ready(0, held=8))
    learn(link)
    wait_in_line(link, 2000)
    loop.look(link, view, 10.0)
    assert {one.number for one in loop.actions(view)} == {1, 2}
    assert autoscale.decode(loop.told())["m"].refused == "1280 MB of host memory needed for each, 3072 MB free"


def test_on_auto_each_slot_gets_its_gpu_and_a_full_one_is_said(link: Link) -> None:
    gpus = Hardware("580", (Gpu("GPU-a", "X", 80 * GB, 80 * GB), Gpu("GPU-b", "X", 80 * GB, 80 * GB)))
    on_a = Assignment("m", "/nowhere", "GPU-a")
    loop, view = scaler(settings(device="auto:1"), gpus=gpus), seen(link, ready(0, held=8, given=on_a))
    learn(link, "GPU-a")
    wait_in_line(link, 2000)
    loop.look(link, view, 10.0)
    actions = loop.actions(view)
    assert [one.assignment.device for one in actions if one.assignment] == ["GPU-b"]
    assert "auto:1 allows no more" in autoscale.decode(loop.told())["m"].refused


def test_on_auto_a_driver_that_does_not_answer_starts_nothing(link: Link) -> None:
    loop, view = scaler(settings(device="auto"), gpus=None), seen(link, ready(0, held=8))
    learn(link)
    wait_in_line(link, 2000)
    loop.look(link, view, 10.0)
    assert loop.actions(view) == []
    assert "no NVIDIA driver has answered" in autoscale.decode(loop.told())["m"].refused


def test_a_counter_that_is_garbled_costs_nothing_else(link: Link) -> None:
    link.call("HSET", keys.counters("m"), "done", "many")
    roster.want(link, "box", "m", 1)
    loop = scaler(settings())
    assert not loop.look(link, seen(link, ready(0)), 10.0)
    assert autoscale.decode(loop.told())["m"].slots == 1


def test_models_that_grow_at_one_look_share_what_the_pool_may_run(link: Link) -> None:
    # given two that each have room for two slots more, and a host with room for two
    models = {name: ModelSettings("/nowhere", slots=1, autoscale=AutoscaleSettings(1, 3, 1.0)) for name in ("m", "k")}
    chosen = Settings(pool=PoolSettings(most_slots=4, host="box"), models=models)
    loop, view = scaler(chosen), seen(link, ready(0, held=8), ready(1, held=8, given=Assignment("k", "/nowhere")))
    link.call("ZADD", keys.ready("k"), roster.now_ms(link) + 60_000, "box/1")
    for name in models:
        link.call(*timetable.save(name, "", "box/cpu", [Learned(8, (), 80.0, 90.0)]))
        link.call_all([("XADD", keys.lane(name, "normal"), "*", "b", b"job")] * 2000)
    # when
    loop.look(link, view, 10.0)
    # then the number that spares need stays free
    assert [one.assignment.model for one in loop.actions(view) if one.assignment] == ["m", "m"]
    assert autoscale.decode(loop.told())["k"].refused == "other models take the rest of pool.most_slots = 4"


def test_a_forecast_of_no_model_does_not_wait_for_a_second_look(link: Link) -> None:
    supervisor: Any = None  # not asked
    rests: list[float] = []
    assert dry.forecasts(settings(), link, supervisor, {}, rest=rests.append) == []
    assert rests == []


def test_an_idle_slot_above_the_most_leaves_and_is_forgotten_once_it_has_ended(link: Link) -> None:
    loop = scaler(settings(scale=AutoscaleSettings(1, 1, 1.0)))
    view = seen(link, ready(0), ready(1, held=2), ready(2))
    roster.want(link, "box", "m", 3)
    assert loop.look(link, view, 10.0)
    assert told(loop.actions(view)) == [("want", 2), ("assign", 2), ("stop", 2)]
    draining = seen(link, ready(0), ready(1), Place(2, "STOPPING", pid=102))
    roster.want(link, "box", "m", 2)
    assert not loop.look(link, draining, 12.0)
    ended = seen(link, ready(0), ready(1))
    assert loop.look(link, ended, 13.0)
    assert told(loop.actions(ended)) == [("forget", 2)]
    assert not loop.look(link, ended, 13.5)


def test_a_slot_that_took_a_job_since_the_look_is_not_stopped(link: Link) -> None:
    loop = scaler(settings(scale=AutoscaleSettings(1, 1, 1.0)))
    assert loop.look(link, seen(link, ready(0), ready(1)), 10.0)
    assert loop.actions(seen(link, ready(0, held=1), ready(1, held=4))) == []


def test_spares_and_slots_that_retire_are_not_counted_nor_stopped(link: Link) -> None:
    loop = scaler(settings(scale=AutoscaleSettings(1, 2, 1.0)))
    asked = {1: Request("m", "max_jobs", 101, 0, phase="loading", spare=2)}
    view = seen(link, ready(0), ready(1), ready(2), requests=asked)
    roster.want(link, "box", "m", 2)
    assert not loop.look(link, view, 10.0), "two count, and two there may be"
    loop = scaler(settings(scale=AutoscaleSettings(1, 1, 1.0)))
    loop.look(link, view, 10.0)
    assert [one.number for one in loop.actions(view)] == [0, 0, 0]


def test_an_operator_s_word_stands_before_pool_toml(link: Link) -> None:
    loop, view = scaler(settings()), seen(link, ready(0, held=8))
    learn(link)
    wait_in_line(link, 2000)
    autoscale.override(link, "box", "m", Override(is_off=True))
    assert not loop.look(link, view, 10.0)
    assert loop.told() == "{}"
    autoscale.override(link, "box", "m", Override(most=2))
    loop.look(link, view, 12.0)
    assert autoscale.decode(loop.told())["m"].wanted == 2
    link.call("HSET", keys.autoscale("box"), "m", b"\xff nonsense")
    assert not loop.look(link, view, 14.0), "nothing is started by a guess"


def test_a_word_that_an_agent_did_not_live_to_say_is_said(link: Link) -> None:
    loop, view = scaler(settings()), seen(link, ready(0), ready(1))
    roster.want(link, "box", "m", 1)
    assert loop.look(link, view, 10.0)
    assert [(one.verb, one.model, one.count) for one in loop.actions(view)] == [("want", "m", 2)]


def test_a_queue_that_is_no_queue_stops_nothing_else(link: Link) -> None:
    link.call("SET", keys.lane("m", "high"), "what is this")
    assert not scaler(settings()).look(link, seen(link, ready(0)), 10.0)


def test_t_of_the_shapes_in_the_middle_stands_for_all(link: Link, tmp_path: Path) -> None:
    sizes = [
        Learned(1, (8,), 10.0, 11.0),
        Learned(8, (8,), 20.0, 21.0),
        Learned(8, (64,), 40.0, 41.0),
        Learned(4, (512,), 400.0, 401.0),
    ]
    assert speed.fastest(sizes) == 200.0
    assert speed.fastest([]) is None
    (tmp_path / "manifest.json").write_text("{}")
    given = Assignment("m", str(tmp_path))
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    link.call(*timetable.save("m", digest, "box/cpu", sizes[:2]))
    speeds = speed.Speeds("box")
    assert speeds.rows_per_s(link, given, 0.0) == 400.0
    link.call("FLUSHALL")
    assert speeds.rows_per_s(link, given, 1.0) == 400.0, "it is asked for once in a while"
    assert speeds.rows_per_s(link, given, 31.0) is None


def test_rows_of_jobs_are_told_by_the_slots_lives(link: Link) -> None:
    loop = scaler(settings())
    view = seen(link, msgspec.structs.replace(ready(0), jobs=10, rows=50))
    learn(link)
    loop.look(link, view, 10.0)
    assert autoscale.decode(loop.told())["m"].slot_per_s == 20.0
