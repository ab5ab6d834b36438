"""T: the times of forwards and the limit of a hang."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.errors import ConfigError
from broker.settings import load
from workers.exchange import Timed
from workers.save_schedule import FEW, FIRST_S, SaveSchedule
from workers.timetable import KEPT, Timetable


def table(*times: tuple[int, tuple[int, ...], float]) -> Timetable:
    return Timetable([Timed(*one) for one in times], floor_s=1.0, factor=20.0)


def test_the_warm_up_is_what_is_known_first_and_later_forwards_change_it() -> None:
    times = table((8, (), 10.0))
    assert (times.typical_ms(8, ()), times.p99_ms(8, ())) == (10.0, 10.0)
    for ms in (20.0, 30.0):
        times.note(8, (), ms)
    assert (times.typical_ms(8, ()), times.p99_ms(8, ())) == (20.0, 30.0)


def test_only_the_last_forwards_count() -> None:
    times = table((8, (), 9_000.0))
    for _ in range(KEPT):
        times.note(8, (), 1.0)
    assert times.p99_ms(8, ()) == 1.0


def test_one_slow_forward_in_more_than_a_hundred_is_past_the_p99() -> None:
    times = table(*[(8, (), 1.0)] * 120, (8, (), 500.0))
    assert times.p99_ms(8, ()) == 1.0


def test_an_unknown_size_counts_as_the_nearest_larger_or_as_the_largest() -> None:
    times = table((8, (128,), 80.0), (8, (512,), 320.0), (64, (512,), 2_000.0))
    assert times.p99_ms(3, (100,)) == 80.0
    assert times.p99_ms(8, (200,)) == 320.0
    assert times.p99_ms(16, (128,)) == 2_000.0
    assert times.p99_ms(128, (512,)) == 2_000.0


def test_raw_input_whose_dims_nobody_knows_yet_is_given_the_time_of_the_largest() -> None:
    times = table((8, (128,), 80.0), (8, (512,), 320.0), (64, (128,), 200.0), (64, (512,), 2_000.0))
    assert times.p99_ms(8, ()) == 320.0
    assert times.p99_ms(32, ()) == 2_000.0
    assert times.p99_ms(128, ()) == 2_000.0
    times.note(8, (), 5.0)
    assert times.hang_limit_s(8, ()) == 6.4, "one that was quick says nothing about a long one"


def test_an_engine_may_be_silent_for_the_floor_and_for_many_times_its_usual_time() -> None:
    times = table((1, (), 2.0), (64, (), 300.0))
    assert times.hang_limit_s(1, ()) == 1.0
    assert times.hang_limit_s(64, ()) == 6.0
    assert table().hang_limit_s(64, ()) == 1.0, "nothing is known yet"


def test_a_hang_factor_that_would_kill_a_usual_forward_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "pool.toml"
    config.write_text("[slot]\nhang_factor = 1.0\n")
    with pytest.raises(ConfigError, match=r"hang_factor = 1\.0 must be above 1"):
        load(str(config), environ={})


def test_what_was_learned_is_written_seldom_and_once_more_at_the_end() -> None:
    times = table((8, (), 10.0))
    kept = SaveSchedule(times, now=100.0)

    def forwards(count: int) -> None:
        for _ in range(count):
            times.note(8, (), 10.0)

    forwards(FEW)
    assert kept.due(100.1) == [], "it is not time"
    assert len(kept.due(100.0 + FIRST_S)) == 1
    forwards(FEW)
    assert kept.due(101.0 + FIRST_S) == [], "it was written just now"
    assert len(kept.due(101.0 + FIRST_S, is_over=True)) == 1
    forwards(FEW - 1)
    assert kept.due(102.0 + FIRST_S, is_over=True) == [], "so few are not worth a write"
