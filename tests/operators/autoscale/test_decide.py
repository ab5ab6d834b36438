"""How many slots: what holds for any sequence of sights, and what holds for traffic that stays as it is."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.autoscale.policies import Ours
from benchmarks.autoscale.traffic import Scenario
from benchmarks.autoscale.world import simulate
from operators.autoscale.decide import COOLDOWN_LOADS, Scaler, cooldown_s
from operators.autoscale.dry import would
from operators.autoscale.words import Bounds, Sight

BOUNDS = Bounds(least=1, most=6, target_s=2.0)
CALM = Sight(at_s=0.0, slots=2, ready=2, idle=(1, 0), table_per_s=100.0, load_s=10.0, places=8)


def changed(sight: Sight, **fields: object) -> Sight:
    return msgspec.structs.replace(sight, **fields)


@st.composite
def sights(draw: st.DrawFn) -> list[Sight]:
    """Looks in time's order; nothing else about them makes sense together, and need not."""
    found, at_s, ended = [], 100.0, 0
    for _ in range(draw(st.integers(1, 12))):
        at_s += draw(st.sampled_from([0.5, 2.0, 2.0, 30.0, 400.0]))
        ended += draw(st.integers(0, 3000))
        slots = draw(st.integers(0, 8))
        ready = draw(st.integers(0, slots))
        failing = draw(st.integers(0, slots - ready))
        jobs = draw(st.sampled_from([0, 0, 1, 50, 5_000, 1_000_000]))
        found.append(
            Sight(
                at_s=at_s, jobs=jobs, unclaimed=draw(st.integers(0, jobs)), oldest_s=draw(st.floats(0, 100)), ended=ended,
                slots=slots, ready=ready, failing=failing, loading=slots - ready - failing,
                idle=tuple(range(draw(st.integers(0, ready)))), elsewhere=draw(st.integers(0, 2)),
                coming_elsewhere=draw(st.integers(0, 1)), table_per_s=draw(st.sampled_from([None, 0.01, 100.0])),
                load_s=draw(st.sampled_from([None, 0.2, 10.0])), places=draw(st.integers(0, 8)),
                is_paused=draw(st.sampled_from([False, False, False, True])),
            )
        )  # fmt: skip
    return found


@given(sights(), st.integers(0, 3), st.integers(0, 5), st.floats(0.01, 100))
@settings(max_examples=100, deadline=None)
def test_whatever_is_seen_no_slot_that_loads_or_works_is_stopped_and_no_bound_is_passed(
    seen: list[Sight], least: int, more: int, target_s: float
) -> None:
    bounds = Bounds(least, max(1, least + more), target_s)
    scaler = Scaler()
    for sight in seen:
        verdict = scaler.look(sight, bounds)
        if verdict.wanted > sight.slots:
            assert verdict.wanted <= min(bounds.most, sight.places)
            assert not sight.failing
            assert not sight.is_paused
        if verdict.wanted < sight.slots:
            assert verdict.wanted == sight.slots - 1, "one at a time"
            assert sight.idle
            assert sight.ready == sight.slots, "none loads, none fails"
            assert not sight.is_paused
            assert verdict.wanted >= min(bounds.least, bounds.most, sight.places)
        assert verdict.why


@given(sights())
@settings(max_examples=100, deadline=None)
def test_no_slot_within_the_bounds_goes_before_a_cooldown_is_over(seen: list[Sight]) -> None:
    scaler, before, up_at_s = Scaler(), 0, 0.0
    for place, sight in enumerate(seen):
        if place == 0 or sight.slots > before:
            up_at_s = sight.at_s
        before = sight.slots
        verdict = scaler.look(sight, BOUNDS)
        if verdict.wanted < sight.slots <= min(BOUNDS.most, sight.places):
            assert sight.at_s - up_at_s >= cooldown_s(sight)


def test_a_backlog_that_cannot_be_cleared_in_time_brings_slots_at_once_and_as_many_as_it_takes() -> None:
    verdict = Scaler().look(changed(CALM, jobs=4000, unclaimed=3900, idle=()), BOUNDS)
    assert (verdict.wanted, verdict.needed) == (2, 2), "two slots clear half of it before a third could be ready"
    verdict = Scaler().look(changed(CALM, jobs=6000, unclaimed=5900, idle=()), BOUNDS)
    assert verdict.wanted == 4  # 4 000 left when they are ready, ten seconds to do it in, and the target: 12 s x 100/s
    verdict = Scaler().look(changed(CALM, jobs=100_000, unclaimed=99_900, idle=()), BOUNDS)
    assert verdict.wanted == BOUNDS.most
    assert verdict.needed > BOUNDS.most


def test_slots_on_their_way_are_counted_on() -> None:
    waiting = changed(CALM, jobs=6000, unclaimed=5900, idle=())
    assert Scaler().look(changed(waiting, slots=6, loading=4), BOUNDS).wanted == 6
    assert Scaler().look(changed(waiting, coming_elsewhere=3, elsewhere=1), BOUNDS).wanted == 2
    assert Scaler().look(changed(waiting, elsewhere=10), BOUNDS).wanted <= 2


def test_a_slow_rise_brings_a_slot_before_anything_waits() -> None:
    scaler, ended = Scaler(), 0
    for at in range(40):
        ended += 2 * 180  # 180 a second, of 200
        verdict = scaler.look(changed(CALM, at_s=2.0 * at, ended=ended), BOUNDS)
    assert verdict.wanted == 3
    assert verdict.arrival_per_s == pytest.approx(180)


def test_what_slots_do_is_believed_before_what_t_says() -> None:
    scaler, ended = Scaler(), 0
    for at in range(10):
        ended += 2 * 2 * 40
        verdict = scaler.look(changed(CALM, at_s=2.0 * at, ended=ended, jobs=500, unclaimed=400, idle=()), BOUNDS)
    assert verdict.slot_per_s == pytest.approx(40)


@pytest.mark.parametrize("table_per_s", [None, 1e6])
def test_an_old_job_brings_one_slot_where_nobody_knows_better_what_a_slot_does(table_per_s: float | None) -> None:
    late = changed(CALM, jobs=50, unclaimed=20, oldest_s=5.0, idle=(), table_per_s=table_per_s)
    assert Scaler().look(late, BOUNDS).wanted == 3
    assert Scaler().look(changed(late, idle=(1,)), BOUNDS).wanted == 2, "an idle slot would have taken it"
    assert Scaler().look(changed(late, slots=3, loading=1), BOUNDS).wanted == 3, "one is on its way"


def test_a_quiet_model_goes_down_to_its_least_one_by_one_each_after_a_while() -> None:
    scaler, slots, gone_at = Scaler(), 4, []
    for at in range(400):
        sight = changed(CALM, at_s=2.0 * at, slots=slots, ready=slots, idle=tuple(range(slots)))
        wanted = scaler.look(sight, BOUNDS).wanted
        if wanted < slots:
            gone_at.append(2.0 * at)
        slots = wanted
    assert slots == 1
    assert gone_at[0] >= COOLDOWN_LOADS * 10.0
    assert min(late - early for early, late in pairwise(gone_at)) >= COOLDOWN_LOADS * 10.0 / 4


def test_a_peak_within_the_cooldown_keeps_the_slots_it_took() -> None:
    scaler, ended = Scaler(), 0
    for at in range(200):
        ended += 2 * (150 if at % 60 < 15 else 5)  # every two minutes, and the cooldown is longer
        verdict = scaler.look(changed(CALM, at_s=2.0 * at, ended=ended), BOUNDS)
        assert verdict.wanted == 2


def test_least_0_lets_the_last_slot_go_and_a_job_brings_one_back() -> None:
    scaler, bounds = Scaler(), Bounds(0, 4, 2.0)
    last = changed(CALM, slots=1, ready=1, idle=(0,))
    scaler.look(last, bounds)
    assert scaler.look(changed(last, at_s=200.0), bounds).wanted == 0
    none = changed(CALM, at_s=202.0, slots=0, ready=0, idle=())
    assert scaler.look(none, bounds).wanted == 0
    assert scaler.look(changed(none, at_s=204.0, jobs=1, unclaimed=1), bounds).wanted == 1
    assert Scaler().look(changed(none, jobs=1, unclaimed=1, table_per_s=None), bounds).wanted == 1


@pytest.mark.parametrize("table_per_s", [None, 100.0])
def test_least_0_lets_the_last_slot_go_when_nothing_came_for_the_cooldown_however_much_did_before(
    table_per_s: float | None,
) -> None:
    scaler, bounds, ended = Scaler(), Bounds(0, 4, 2.0), 0
    last = changed(CALM, slots=1, ready=1, idle=(0,), table_per_s=table_per_s, load_s=1.0)
    for at in range(50):
        ended += 40
        assert scaler.look(changed(last, at_s=2.0 * at, ended=ended), bounds).wanted == 1
    gone_at = next(
        at for at in range(50, 200) if not scaler.look(changed(last, at_s=2.0 * at, ended=ended), bounds).wanted
    )
    assert 60.0 <= 2.0 * (gone_at - 49) <= 64.0


def test_slots_that_hang_for_hours_ask_for_no_number_that_has_no_meaning() -> None:
    scaler, ended = Scaler(), 0
    hanging = changed(CALM, jobs=50, unclaimed=40, idle=(), table_per_s=None)
    for at in range(10_500):
        ended += 200 if at < 30 else 0
        verdict = scaler.look(changed(hanging, at_s=2.0 * at, ended=ended), BOUNDS)
    assert (verdict.wanted, verdict.needed) == (6, 9999)


def test_a_model_whose_slots_an_operator_took_away_is_left_alone() -> None:
    verdict = Scaler().look(changed(CALM, slots=0, ready=0, idle=(), jobs=9000, unclaimed=9000), BOUNDS)
    assert (verdict.wanted, verdict.why) == (0, "all its slots were taken away by hand")


def test_a_paused_model_keeps_what_it_has() -> None:
    assert Scaler().look(changed(CALM, is_paused=True, jobs=100_000, unclaimed=100_000), BOUNDS).wanted == 2
    idle = Scaler().look(changed(CALM, is_paused=True), BOUNDS)
    assert would(idle, 2, BOUNDS) == "would change nothing"


def test_slots_that_cannot_load_are_no_reason_to_start_more_of_them() -> None:
    verdict = Scaler().look(changed(CALM, slots=3, failing=1, jobs=100_000, unclaimed=100_000, idle=()), BOUNDS)
    assert verdict.wanted == 3
    assert "1 cannot load" in verdict.why


def test_slots_above_the_most_go_without_waiting_for_the_cooldown() -> None:
    assert Scaler().look(changed(CALM, slots=4, ready=4), Bounds(1, 2, 2.0)).wanted == 3


def test_short_is_only_who_misses_the_target_at_the_most_it_may_have() -> None:
    late = changed(CALM, jobs=100_000, unclaimed=99_000, oldest_s=60.0, slots=6, ready=6, idle=())
    assert Scaler().look(late, BOUNDS).is_short
    assert Scaler().look(changed(late, places=6), Bounds(1, 8, 2.0)).is_short, "the host has no room for more"
    assert not Scaler().look(changed(late, slots=5, ready=5), BOUNDS).is_short
    assert not Scaler().look(changed(late, oldest_s=1.0), BOUNDS).is_short


def test_lanes_that_are_resumed_are_no_burst_of_arrivals() -> None:
    scaler = Scaler()
    scaler.look(changed(CALM, paused=frozenset({"low"})), BOUNDS)
    verdict = scaler.look(changed(CALM, at_s=2.0, jobs=100, unclaimed=100), BOUNDS)
    assert not verdict.arrival_per_s


@given(st.floats(0.05, 6.5), st.integers(0, 9))
@settings(max_examples=12, deadline=None)
def test_under_a_steady_load_it_comes_to_rest_and_the_target_is_kept(load: float, seed: int) -> None:
    course = simulate(Scenario("steady", "", 4800.0, lambda _: load, seed=seed), Ours())
    late = course.slots[len(course.slots) // 2 :]
    assert len(set(late)) <= 1 + (load > 5.5), f"it flaps between {set(late)}"
    assert max(course.waits_s[len(course.waits_s) // 2 :]) <= 2.0
    assert load < min(late) <= load / 0.85 * 1.2 + 2.5
