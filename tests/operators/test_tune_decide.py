"""What `penstock tune` decides, from tables written down here."""

from __future__ import annotations

import pytest

from operators.tune import decide
from operators.tune.decide import Heat, Step, Target

NO_LIMIT = Target()


def table(*cells: tuple[int, float]) -> list[Step]:
    """Steps of (rows, T ms); p99 is a tenth above, one slot takes a megabyte a row."""
    return [Step(rows, ms, 1.1 * ms, rows * 1_000_000) for rows, ms in cells]


# ResNet-50 on an A100 (servers.md): 16 has 97 % of the peak at half the latency, 64 is slower than 32
A100 = table((1, 1.6), (2, 1.7), (4, 2.3), (8, 3.4), (16, 5.77), (32, 11.2), (64, 25.3))
LINEAR = table((1, 7.0), (2, 14.0), (4, 28.0), (8, 56.0), (16, 112.0))


def test_the_knee_is_the_smallest_size_near_the_peak_and_not_the_peak() -> None:
    choice = decide.choose(A100, NO_LIMIT)
    assert choice.step is not None
    assert choice.step.rows == 16
    assert choice.verdicts[16] == "the knee"
    assert choice.verdicts[32].startswith("past the knee: +3 % rows/s, 1.9 times")
    assert choice.verdicts[64].startswith("past the knee: -")
    assert "fewer rows/s" in choice.verdicts[1]


def test_a_model_that_gains_nothing_by_batching_is_served_row_by_row() -> None:
    choice = decide.choose(LINEAR, NO_LIMIT)
    assert choice.step is not None
    assert choice.step.rows == 1


def test_a_latency_target_counts_the_batch_in_progress_and_the_own_one() -> None:
    # given: 16 rows take 6.35 ms at worst; twice that and the queue are over 12 ms, 8 rows are 9.5 ms
    choice = decide.choose(A100, Target(latency_ms=12.0))
    assert choice.step is not None
    assert choice.step.rows == 8
    assert choice.verdicts[16] == "p99 14.7 ms, over --latency-ms"


def test_a_target_out_of_reach_names_the_best_that_is_in_reach() -> None:
    choice = decide.choose(A100, Target(latency_ms=3.0))
    assert choice.step is None
    assert "--latency-ms 3 is out of reach: the best is 5.5 ms, with 1 row a batch" in choice.reason


def test_memory_and_out_of_memory_bound_the_batch() -> None:
    assert (found := decide.choose(A100, Target(memory_bytes=5_000_000)).step) is not None
    assert found.rows == 4
    failed = [*A100[:3], Step(8, 0.0, 0.0, problem="out of memory")]
    choice = decide.choose(failed, NO_LIMIT)
    assert choice.step is not None
    assert choice.step.rows == 4
    assert choice.verdicts[8] == "out of memory"
    nothing = decide.choose(A100, Target(memory_bytes=10))
    assert nothing.step is None
    assert "out of reach: one slot with 1 row a batch takes 1 MB" in nothing.reason


def test_a_bucket_goes_where_padding_to_the_next_is_cheap() -> None:
    kept, dropped = decide.thin(A100, 16)
    assert kept == (1, 2, 4, 8, 16)  # 1 stays although 2 takes only 6 % longer
    flat = table((1, 5.0), (2, 5.1), (4, 5.2), (8, 5.4), (16, 9.0))
    kept, dropped = decide.thin(flat, 16)
    assert kept == (1, 8, 16)
    assert dropped[2].startswith("no bucket: padding to 4 takes 2 % longer")


def test_the_number_of_buckets_is_bounded() -> None:
    many = table(*((rows, float(rows)) for rows in range(1, 65)))
    kept, _ = decide.thin(many, 64)
    assert len(kept) == decide.MOST_ROW_BUCKETS
    assert (kept[0], kept[-1]) == (1, 64)


def test_sizes_in_between_are_tried_where_the_next_bucket_is_dear_and_save_padding() -> None:
    assert decide.between(LINEAR, 16) == [3, 6, 12]
    assert decide.between(A100[:3], 4) == [3]
    powers = decide.padding(LINEAR, [1, 2, 4, 8, 16])
    finer = decide.padding(LINEAR, [1, 2, 3, 4, 6, 8, 12, 16])
    assert finer < powers / 1.5
    assert decide.padding(LINEAR, list(range(1, 17))) == pytest.approx(0)


def test_the_wait_is_touched_only_where_the_target_leaves_less_than_it_may_take() -> None:
    chosen = A100[3]
    assert decide.wait(chosen, NO_LIMIT, 5.0)[0] is None
    assert decide.wait(chosen, Target(latency_ms=500.0), 5.0)[0] is None
    assert decide.wait(chosen, Target(latency_ms=10.5), 0.0)[0] is None, "switched off by hand"
    wait_ms, reason = decide.wait(chosen, Target(latency_ms=10.5), 5.0)
    assert wait_ms == pytest.approx(1.0)  # 10.5 - (2 * 3.74 + 2)
    assert reason == "the target leaves 1.0 ms: no batch may wait longer for company"


def test_a_slot_more_must_gain_ten_percent_and_keep_the_target() -> None:
    heats = [Heat(1, 100.0, 10.0, 50), Heat(2, 190.0, 11.0, 100), Heat(3, 200.0, 16.0, 150)]
    assert decide.slots(heats, NO_LIMIT)[0] == 2
    assert decide.slots(heats[:2], NO_LIMIT) == (2, "2 engines do 1.90 times the rows/s of one: 190")
    assert decide.slots(heats, Target(latency_ms=23.0))[0] == 1
    assert decide.slots(heats, Target(memory_bytes=99))[0] == 1
    assert decide.slots([heats[0], Heat(2, 0.0, 0.0, problem="out of memory")], NO_LIMIT)[0] == 1
    assert decide.slots([Heat(1, 0.0, 0.0, problem="out of memory")], NO_LIMIT)[0] == 1
