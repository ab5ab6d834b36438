"""Shape buckets from the sizes that data has."""

from __future__ import annotations

from itertools import combinations

from operators.tune import dims


def test_two_kinds_of_rows_get_a_bucket_each() -> None:
    assert dims.buckets({16: 500, 120: 500}, largest=512) == (16, 120, 512)


def test_no_choice_of_as_many_buckets_pads_less() -> None:
    # given
    sizes = {8: 40, 16: 90, 24: 10, 40: 70, 64: 5, 96: 30, 128: 2}
    candidates = sorted(sizes)
    # then: as good as trying them all
    for count in (1, 2, 3, 4):
        best = min(
            (dims.share(sizes, (*chosen, 128)) for chosen in combinations(candidates[:-1], count - 1)), default=0.0
        )
        assert abs(dims.share(sizes, dims._best(sizes, 128, count)) - best) < 1e-12


def test_few_buckets_are_taken_where_more_pad_next_to_nothing_less() -> None:
    evenly = dict.fromkeys(range(8, 513, 8), 10)
    assert len(dims.buckets(evenly, largest=512)) == dims.MOST_BUCKETS
    assert dims.buckets({100: 1000}, largest=104) == (104,)


def test_the_largest_bucket_stays_the_manifests_and_others_are_multiples_of_eight() -> None:
    found = dims.buckets({17: 100, 45: 100, 130: 1}, largest=500)
    assert found[-1] == 500
    assert all(size % 8 == 0 for size in found[:-1])
    assert set(found) >= {24, 48}


def test_a_proposal_says_what_share_is_padding_before_and_after() -> None:
    found = dims.propose("tokens", {10: 90, 200: 10}, (256,))
    assert round(found.now_share, 3) == round(1 - 2900 / 25600, 3)
    assert found.best_share < 0.5
    assert found.best[-1] == 256


def test_many_different_sizes_are_rounded_more_coarsely() -> None:
    sizes = dict.fromkeys(range(1, 20_001, 3), 1)
    assert len(dims._candidates(sizes, 20_000)) <= dims.MOST_SIZES
