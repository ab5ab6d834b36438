"""How many rows a batch may have and had better have, by T. Pure."""

from __future__ import annotations

from workers.batch_limits import REFRESH, BatchLimits
from workers.exchange import Timed
from workers.timetable import Timetable

HIGH, NORMAL, LOW = range(3)
FLAT = {1: 5.0, 8: 5.0, 64: 5.0}
STEEP = {1: 4.0, 8: 40.0, 64: 400.0}  # batching gains nothing
KNEE = {1: 2.0, 8: 4.0, 32: 11.0, 64: 26.0}  # more rows a second at 32 than at 64
FIXED = {1: 30.0, 8: 32.0, 64: 58.0}


def batch_limits(table: dict[int, float], *, low_batch_ms: float = 20.0, cap: int = 64) -> BatchLimits:
    times = Timetable([Timed(rows, (), ms) for rows, ms in table.items()], floor_s=1.0, factor=20.0)
    return BatchLimits(times, tuple(table) or (1, 8, 64), low_batch_ms=low_batch_ms, cap=lambda dims: cap)


def test_only_the_low_lane_is_bounded_in_time_and_every_lane_in_memory() -> None:
    gentle = {1: 1.0, 8: 6.0, 64: 40.0}
    assert [batch_limits(gentle).most((), lane) for lane in (HIGH, NORMAL, LOW)] == [64, 64, 8]
    assert [batch_limits(gentle, cap=8).most((), lane) for lane in (HIGH, NORMAL, LOW)] == [8, 8, 8]
    assert batch_limits(gentle, low_batch_ms=0.0).most((), LOW) == 64


def test_a_low_batch_is_never_smaller_than_the_smallest_size_nor_is_its_fixed_cost_thrown_away() -> None:
    assert batch_limits({1: 100.0, 8: 700.0, 64: 5000.0}).most((), LOW) == 1
    assert batch_limits(FIXED).most((), LOW) == 64, "twice the smallest forward is always allowed"


def test_nothing_is_bounded_while_t_is_not_known() -> None:
    unknown = batch_limits({})
    assert (unknown.most((), LOW), unknown.fill((), 33), unknown.company((), 1), unknown.least_ms(())) == (
        64,
        33,
        64,
        0,
    )


def test_fewer_rows_run_where_padding_them_costs_more_than_a_batch_more() -> None:
    padded = batch_limits({1: 1.0, 64: 10.0, 128: 20.0})
    assert padded.fill((), 65) == 64, "65 rows padded to 128 take as long as 64 and 64"
    assert padded.fill((), 127) == 127
    assert batch_limits(FLAT).fill((), 9) == 9, "where a batch more costs as much as all, none is split"


def test_a_batch_does_not_grow_past_the_knee_of_the_model() -> None:
    assert batch_limits(KNEE).planned((), NORMAL) == 32
    assert batch_limits(STEEP).planned((), NORMAL) == 1
    assert batch_limits(FLAT).planned((), NORMAL) == 64


def test_quick_models_are_not_split_for_microseconds() -> None:
    assert batch_limits({1: 0.01, 64: 0.9}).fill((), 64) == 64, "what a batch costs beside its forward counts too"


def test_what_is_better_is_looked_at_again_when_t_has_changed() -> None:
    times = Timetable([Timed(1, (), 1.0), Timed(8, (), 1.0)], floor_s=1.0, factor=20.0)
    sizes = BatchLimits(times, (1, 8), low_batch_ms=0.0)
    assert sizes.fill((), 8) == 8
    for _ in range(REFRESH):
        times.note(8, (), 100.0)
    assert sizes.fill((), 8) == 1


def test_company_may_use_the_padding_and_what_makes_no_difference_but_not_make_a_higher_lane_late() -> None:
    assert batch_limits(STEEP).company((), 3) == 8, "the padding"
    assert batch_limits(FLAT).company((), 3) == 64
    assert batch_limits(KNEE).company((), 1) == 1
    assert batch_limits({1: 0.1, 8: 0.4, 64: 1.0}).company((), 1) == 64, "less than a millisecond later"
