"""How a claim's room is shared out over the lanes. Pure: what reads brought in, counts out."""

from __future__ import annotations

import pytest

from tests.workers.test_batcher import job
from workers.claims import CLAIM_BYTES, FORGOTTEN_AFTER, Claims


def seen(*full: int) -> Claims:
    """Claims whose last reads came back full in these lanes."""
    claims = Claims()
    for lane in range(3):
        claims.note_lane(lane, 10, 10 if lane in full else 3)
    return claims


def test_a_lane_with_a_backlog_gets_the_room_after_a_reserve_for_higher_ones() -> None:
    assert seen(1).shares((256, 256, 256)) == (32, 224, 0)
    assert seen(0).shares((256, 256, 256)) == (256, 0, 0)
    assert seen(2).shares((256, 256, 256)) == (32, 32, 192)
    assert seen(0, 1, 2).shares((256, 256, 256)) == (256, 0, 0)


def test_without_a_backlog_all_lanes_get_the_same() -> None:
    assert seen().shares((256, 256, 256)) == (85, 85, 85)


def test_every_eighth_turn_starts_at_a_lower_lane_the_lowest_and_the_middle_one_in_turns() -> None:
    claims = seen(0, 1, 2)
    turns = [claims.shares((256, 256, 256)) for _ in range(16)]
    assert (turns[7], turns[15]) == ((0, 0, 256), (0, 256, 0))
    assert turns[:7] == turns[8:15] == [(256, 0, 0)] * 7


@pytest.mark.parametrize("room", [8, 9, 15, 64, 1000])
@pytest.mark.parametrize("full", [(), (0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_shares_never_exceed_the_room(room: int, full: tuple[int, ...]) -> None:
    claims = seen(*full)
    for _ in range(9):
        counts = claims.shares((room, room, room))
        assert sum(counts) <= room
        assert min(counts) >= 0
        assert max(counts) >= 1


@pytest.mark.parametrize("paused", [{0}, {1}, {2}, {0, 1}, {0, 2}, {1, 2}])
@pytest.mark.parametrize("full", [(), (0,), (1,), (2,), (0, 1, 2)])
def test_paused_lanes_get_no_room_and_the_others_all_of_it(paused: set[int], full: tuple[int, ...]) -> None:
    claims = seen(*full)
    claims.pause(frozenset(paused))
    for _ in range(17):
        counts = claims.shares(claims.jobs_in((256, 256, 256)))
        assert not [lane for lane in paused if counts[lane]]
        assert 256 >= sum(counts) > 256 - 256 // 8 - (256 % 3)
    assert claims.has_backlog == bool(set(full) - paused)


def test_a_backlog_heard_of_after_the_pause_is_none_and_after_the_resume_it_is() -> None:
    claims = Claims()
    claims.pause(frozenset({2}))
    claims.note_lane(2, 10, 10)  # of a read that was under way
    assert not claims.has_backlog
    claims.pause(frozenset())
    claims.note_lane(2, 10, 10)
    assert claims.has_backlog
    claims.pause(frozenset({0, 1, 2}))
    assert claims.is_shut
    assert not claims.has_backlog


def test_a_dry_queue_has_no_backlog() -> None:
    claims = seen(1)
    assert claims.has_backlog
    claims.note_dry(is_dry=True)
    assert claims.is_dry
    assert not claims.has_backlog


def test_a_lane_of_large_jobs_leaves_what_it_has_no_use_for_to_those_above() -> None:
    assert seen(2).shares((32, 32, 1)) == (27, 4, 1)
    assert seen(2).shares((8, 8, 0)) == (7, 1, 0)
    assert seen().shares((4, 4, 1)) == (1, 1, 1)


def test_the_size_of_jobs_is_known_lane_by_lane() -> None:
    claims = Claims()
    for _ in range(12):
        claims.note_turn([job(lane=2, rows=1500)])
    assert claims.jobs_in((32, 32, 32)) == (32, 32, 1)
    assert claims.jobs_in((32, 0, -5)) == (32, 0, 0)
    claims.note_turn([*(job(lane=0, rows=2) for _ in range(9)), job(lane=2, rows=1500)])
    assert claims.jobs_in((32, 32, 32)) == (21, 32, 1)
    # when nothing of the low lane came for long
    for _ in range(FORGOTTEN_AFTER):
        claims.note_turn([job(lane=0)])
    assert claims.jobs_in((32, 32, 32)) == (32, 32, 32)


def test_lanes_above_the_low_one_are_claimed_together_only_where_any_of_them_may_come() -> None:
    claims = Claims()
    assert [claims.above_low(counts) for counts in ((4, 4, 1), (4, 1, 4), (0, 0, 4))] == [4, 0, 0]
    claims.pause(frozenset({0}))
    assert [claims.above_low(counts) for counts in ((0, 3, 1), (0, 0, 4))] == [3, 0]
    claims.pause(frozenset({2}))
    assert [claims.above_low(counts) for counts in ((4, 4, 0), (4, 0, 0))] == [4, 0]


def test_a_backlog_above_a_lane_is_one_of_higher_lanes() -> None:
    assert [seen(1).has_backlog_above(lane) for lane in range(3)] == [False, False, True]


def test_large_bodies_of_one_lane_bound_that_lane_alone() -> None:
    claims = Claims()
    for _ in range(12):
        claims.note_turn([job(lane=2, size=CLAIM_BYTES // 2)])
    assert claims.jobs_in((64, 64, 64)) == (64, 64, 2)
