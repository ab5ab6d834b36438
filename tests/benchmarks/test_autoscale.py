"""The simulation's claim: less time over the target than queue-length scaling, at no more slot-hours, in every scenario."""

from __future__ import annotations

import pytest

from benchmarks.autoscale.policies import QUEUE_LENGTH, Fixed, Ours
from benchmarks.autoscale.traffic import SCENARIOS, Scenario
from benchmarks.autoscale.world import simulate


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[one.name for one in SCENARIOS])
def test_ours_misses_the_target_for_less_time_at_no_more_slot_hours(scenario: Scenario) -> None:
    came = scenario.arrivals()
    ours, theirs = (simulate(scenario, policy(), came=came) for policy in (Ours, QUEUE_LENGTH))
    assert ours.over_s < theirs.over_s
    assert ours.slot_s <= theirs.slot_s


def test_the_simulated_pool_loses_no_job_and_a_pool_that_is_large_enough_is_never_late() -> None:
    scenario = SCENARIOS[0]
    came = scenario.arrivals()
    course = simulate(scenario, Fixed(6), came=came)
    assert course.jobs == sum(came)
    assert (course.over_s, course.changes) == (0.0, 0)
    assert course.slot_s == 6 * scenario.lasts_s


def test_a_pool_that_is_too_small_is_late_by_what_it_cannot_do() -> None:
    scenario = Scenario("twice", "", 600.0, lambda _: 2.0)
    course = simulate(scenario, Fixed(1))
    assert course.worst_s == pytest.approx(300.0, rel=0.02)
    assert course.over_s == pytest.approx(596.0, abs=4.0)
