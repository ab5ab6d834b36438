"""How much, how fast and for how long: pure."""

from __future__ import annotations

import pytest

from broker.spec import Limits, ModelSpec
from operators.runs.pace import Plan, Speed, Throttle, Window, must_yield, plan

MODEL = ModelSpec(name="m", version="1", takes="tensors", inputs=(), outputs=(), max_rows=256)


@pytest.mark.parametrize(
    ("row_bytes", "rows_per_s", "total", "wish", "wanted"),
    [
        (256, 1e6, 2_000_000, 0, Plan(131_072, 8192, 256)),  # as large as bytes let
        (256, 10_000.0, 2_000_000, 0, Plan(9728, 4864, 256)),  # as large as half a second lets, in whole batches
        (256, 100.0, 10_000, 0, Plan(100, 50, 256)),  # a slow model: a kill costs a second
        (256, 100.0, 5_000_000, 0, Plan(1000, 50, 256)),  # but not a million parts
        (150_528, 1000.0, 50_000, 0, Plan(221, 13, 150_528)),  # images: 32 MB in a part
        (5 << 20, 10.0, 100, 0, Plan(6, 1, 5 << 20)),  # rows beyond any limit are refused one by one
        (256, 1e6, 2_000_000, 100, Plan(131_000, 100, 256)),  # the user's wish
        (256, 0.01, 10, 0, Plan(1, 1, 256)),
    ],
)
def test_a_part_and_a_job_take_about_their_time_and_no_more_than_their_bytes(
    row_bytes: int, rows_per_s: float, total: int, wish: int, wanted: Plan
) -> None:
    assert plan(MODEL, Limits(), row_bytes, rows_per_s, rows_total=total, job_rows=wish) == wanted


def test_a_job_stays_under_half_of_what_the_queue_takes() -> None:
    assert plan(MODEL, Limits(payload_limit_bytes=1 << 20), 256, 1e6, rows_total=10**6).job_rows * 256 <= 1 << 19


def test_the_window_is_bounded_in_bytes_parts_and_a_share_of_the_queue_and_lets_one_job_through() -> None:
    small = Plan(10, 5, 100)
    for window in (
        Window(Limits(), Plan(1 << 20, 5, 100), window_bytes=1000),
        Window(Limits(max_bytes=4000), Plan(1 << 20, 5, 100), window_bytes=1 << 30),
        Window(Limits(max_jobs=8), small, window_bytes=1 << 30),
    ):
        assert window.has_room(10**9), "one always may"
        window.take(500)
        assert window.has_room(500)
        window.take(500)
        assert not window.has_room(500)
        window.give(500)
        assert window.has_room(500)


def filled(window: Window, size: int) -> int:
    """Jobs under way when no more may be."""
    while window.has_room(size):
        window.take(size)
    return window.jobs


def test_a_window_that_was_full_opens_again_when_half_of_it_came_back() -> None:
    window = Window(Limits(), Plan(13, 5, 100), window_bytes=1 << 20)
    assert filled(window, 390) == 10
    for _ in range(4):
        window.give(390)
        assert not window.has_room(390), "so that jobs travel several at a time"
    assert window.is_gathering
    window.give(390)
    assert window.is_open
    assert filled(window, 390) == 10


def test_a_window_is_enough_for_all_slots_and_no_more_than_its_setting() -> None:
    # given: jobs of half a second, of which three parts would hold six
    window = Window(Limits(), Plan(100, 50, 1000), window_bytes=1 << 20)
    assert filled(window, 50_000) == 6
    window.note_slots(4)
    assert filled(window, 50_000) == 16, "though none came back: the new ones do not wait for the first answers"
    window.note_slots(100)
    assert filled(window, 50_000) == (1 << 20) // 50_000
    window.note_slots(1)
    while window.jobs:
        window.give(50_000)
    assert filled(window, 50_000) == 6


@pytest.mark.parametrize(
    ("limits", "window_bytes", "most"), [(Limits(), 500_000, 10), (Limits(max_jobs=40), 1 << 20, 10)]
)
def test_a_window_that_its_limits_keep_small_is_kept_full(limits: Limits, window_bytes: int, most: int) -> None:
    # given: eight slots, for which it would be 32 jobs
    window = Window(limits, Plan(100, 50, 1000), window_bytes=window_bytes)
    window.note_slots(8)
    assert filled(window, 50_000) == most
    # then: half of them would leave slots without one, and nobody sleeps over it
    assert not window.is_gathering
    window.give(50_000)
    assert window.has_room(50_000)


def test_slots_have_enough_where_rows_are_larger_than_the_first_ones_or_jobs_smaller_than_they_need_be() -> None:
    window = Window(Limits(), Plan(100, 50, 1000), window_bytes=64 << 20)
    window.note_slots(16)
    assert filled(window, 500_000) == 64

    # given: jobs of one row, which make batches of half a second all the same
    window = Window(Limits(), Plan(100, 1, 1000), window_bytes=64 << 20)
    window.note_slots(16)
    assert filled(window, 1000) == 16 * 4 * 50


def test_a_late_answer_widens_the_window_to_three_parts_for_a_second() -> None:
    window = Window(Limits(), Plan(131_072, 8192, 256), window_bytes=64 << 20)
    assert filled(window, 2 << 20) == 8
    window.widen()
    assert filled(window, 2 << 20) == 32
    window.note_slots(1)
    for _ in range(27):
        window.give(2 << 20)
        assert not window.has_room(2 << 20)
    window.give(2 << 20)
    assert filled(window, 2 << 20) == 8


def test_a_rate_is_kept_over_any_second_and_what_was_not_used_is_not_kept_for_long() -> None:
    throttle = Throttle(100.0)
    assert throttle.wait_s(0.0) == 0
    throttle.take(50)
    assert throttle.wait_s(0.0) == pytest.approx(0.5)
    assert throttle.wait_s(0.4) == pytest.approx(0.1)
    assert throttle.wait_s(0.5) == pytest.approx(0)
    # when: it stood still for a minute
    assert throttle.wait_s(60.0) == 0
    throttle.take(200)
    assert throttle.wait_s(60.0) == pytest.approx(1.0)
    free = Throttle(0)
    free.take(10**9)
    assert free.wait_s(1.0) == 0


def test_the_speed_is_that_of_the_last_seconds() -> None:
    speed = Speed()
    assert speed.saw(0, 0.0) == 0
    assert speed.saw(100, 1.0) == 100
    for second in range(2, 60):
        last = speed.saw(100 + 10 * (second - 1), float(second))
    assert last == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize(
    ("mine", "waiting", "worked_s", "wanted"),
    [
        ("normal", (), 1e9, False),
        ("normal", ("normal",), 29.0, False),
        ("normal", ("normal",), 30.0, True),
        ("normal", ("high",), 0.5, False),
        ("normal", ("low", "high"), 1.0, True),
        ("normal", ("low",), 1e9, False),
        ("low", ("normal",), 1.0, True),
        ("high", ("normal", "low"), 1e9, False),
        ("normal", ("garbled",), 1e9, False),
    ],
)
def test_a_run_gives_way_to_its_likes_after_its_slice_and_to_more_urgent_ones_soon(
    mine: str, waiting: tuple[str, ...], worked_s: float, wanted: bool
) -> None:
    assert must_yield(mine, waiting, worked_s=worked_s, slice_s=30.0) is wanted
