"""What an out-of-memory teaches about the next batches; pure, the clock is a number."""

from __future__ import annotations

from broker.caps import Cap
from workers.caps import REPROBE_MS, Caps, Change

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
SHORT, LONG = (16,), (512,)


def test_the_cap_is_the_bucket_below_for_that_shape_only_and_is_doubled_every_five_minutes() -> None:
    caps = Caps(BUCKETS)
    assert caps.lower(LONG, 64, 1000.0) == 32
    assert caps.lower(LONG, 32, 2000.0) == 16
    assert caps.limit(SHORT, 2000.0) == 64
    limits = [caps.limit(LONG, 2000 + minutes * 60_000) for minutes in (0, 4.9, 5, 9.9, 10, 1000)]
    assert limits == [16, 16, 32, 32, 64, 64]
    assert REPROBE_MS == 300_000


def test_a_probe_that_fails_halves_from_where_it_was() -> None:
    caps = Caps(BUCKETS, {LONG: Cap(8, 0)})
    assert caps.limit(LONG, REPROBE_MS) == 16
    assert caps.lower(LONG, 16, REPROBE_MS) == 8
    assert caps.limit(LONG, 2 * REPROBE_MS - 1) == 8


def test_a_late_part_of_the_same_ladder_does_not_raise_the_cap_again() -> None:
    caps = Caps(BUCKETS)
    for bucket in (64, 32, 16):
        caps.lower(LONG, bucket, 0.0)
    assert caps.lower(LONG, 32, 0.0) == 16
    assert caps.limit(LONG, 0.0) == 8


def test_what_a_ladder_taught_is_told_once() -> None:
    caps = Caps(BUCKETS)
    assert caps.settle() == []
    caps.lower(LONG, 64, 1000.0)
    caps.lower(LONG, 32, 1001.0)
    assert caps.settle() == [Change(LONG, Cap(16, 1001))]
    assert caps.settle() == []


def test_a_row_that_does_not_fit_alone_teaches_nothing_about_the_others() -> None:
    caps = Caps(BUCKETS, {LONG: Cap(32, 500)})
    for bucket in (32, 16, 8, 4, 2):
        caps.lower(LONG, bucket, 1000.0)
    assert caps.lower(LONG, 1, 1000.0) == 0, "there is no smaller bucket"
    caps.pardon(LONG)
    assert caps.limit(LONG, 1000.0) == 32
    assert caps.settle() == []


def test_what_is_known_of_other_buckets_is_rounded_down_and_time_before_the_first_answer_does_no_harm() -> None:
    caps = Caps((8, 64), {LONG: Cap(48, 0), SHORT: Cap(1, 0)})
    assert (caps.limit(LONG, 0), caps.limit(SHORT, 0)) == (8, 8)
    assert caps.limit(LONG, float("-inf")) == 8
