"""When the slot asks Redis for more, and when a free engine waits. Pure; the clock is a number."""

from __future__ import annotations

from tests.workers.test_batcher import batcher, job, table
from workers.batch_limits import BatchLimits
from workers.batcher import Batcher
from workers.pacing import ALONE_LOOK_S, LOOK_S, Look, Pacing

HIGH, NORMAL, LOW = range(3)


def paced(ms: float) -> tuple[Batcher, Pacing]:
    """A model whose forward takes `ms` whatever its rows."""
    parts = batcher()
    parts.batch_limits = BatchLimits(table((1, ms), (2, ms), (4, ms), (8, ms)), parts.row_buckets, low_batch_ms=20.0)
    return parts, Pacing(parts, max_wait_ms=5.0, read_ahead_max_ms=500.0)


def run(parts: Batcher, pacing: Pacing, now: float) -> None:
    batch = parts.pack()
    assert batch is not None
    pacing.began(batch, now)


def test_behind_a_quick_forward_jobs_are_read_ahead_at_once_and_behind_a_long_one_shortly_before_its_end() -> None:
    for ms, may in ((1.0, [True, True]), (20.0, [False, True])):
        parts, pacing = paced(ms)
        parts.add([job()])
        run(parts, pacing, 100.0)
        assert [pacing.may_ask(at, has_backlog=False) for at in (100.001, 100.017)] == may


def test_a_long_forward_is_woken_for_once_and_asked_behind_once() -> None:
    parts, pacing = paced(20.0)
    parts.add([job()])
    run(parts, pacing, 100.0)
    assert round(pacing.due_ms(100.0), 3) == 16.0
    assert [pacing.must_ask(at) for at in (100.0, 100.017)] == [False, True]
    pacing.read(100.0)
    assert not pacing.must_ask(100.018)
    assert pacing.may_ask(100.018, has_backlog=True), "what the first read left is read as well"
    assert pacing.due_ms(100.018) == float("inf")


def test_before_a_long_batch_that_could_grow_redis_is_asked_once_more_and_not_twice() -> None:
    parts, pacing = paced(20.0)
    parts.add([job()])
    run(parts, pacing, 100.0)
    parts.add([job()])  # read ahead
    pacing.freed(1000.0)
    assert pacing.is_held(1000.0, is_asking=False)
    assert pacing.look == Look(None)
    pacing.looked()
    assert pacing.is_held(1000.0, is_asking=True), "the answer is under way"
    assert not pacing.is_soon, "senders that come back with the results may join it: they do not wait for this"
    assert not pacing.is_held(1000.0, is_asking=False)


def test_a_full_batch_of_a_lower_lane_asks_for_higher_ones_and_one_of_the_highest_for_nothing() -> None:
    for lane, look in ((LOW, Look(LOW)), (NORMAL, Look(NORMAL)), (HIGH, None)):
        parts, pacing = paced(20.0)
        parts.add([job()])
        run(parts, pacing, 100.0)
        parts.add([job(lane=lane) for _ in range(8)])
        pacing.freed(1000.0)
        assert pacing.is_held(1000.0, is_asking=False) == (look is not None)
        assert pacing.look == look
        assert pacing.is_soon == (look is not None)


def test_a_batch_that_lower_lanes_filled_up_asks_for_more_of_its_own_lane_too() -> None:
    for lane, look in ((NORMAL, Look(NORMAL + 1)), (HIGH, Look(HIGH + 1))):
        parts, pacing = paced(20.0)
        parts.add([job()])
        run(parts, pacing, 100.0)
        parts.add([job(lane=lane), job(lane=LOW, rows=100)])
        pacing.freed(1000.0)
        assert pacing.is_held(1000.0, is_asking=False)
        assert pacing.look == look


def test_what_was_claimed_while_the_engine_was_free_and_what_is_quick_begins_at_once() -> None:
    parts, pacing = paced(20.0)
    parts.add([job()])
    run(parts, pacing, 100.0)
    pacing.freed(1000.0)
    parts.add([job()])
    assert not pacing.is_held(1000.5, is_asking=False)
    parts, pacing = paced(1.0)
    parts.add([job()])
    run(parts, pacing, 100.0)
    parts.add([job(lane=LOW)])
    pacing.freed(1000.0)
    assert not pacing.is_held(1000.0, is_asking=False)


def test_a_slot_holds_two_batches_as_they_are_run_and_not_as_large_as_they_may_be() -> None:
    parts = batcher()
    parts.batch_limits = BatchLimits(
        table((1, 10.0), (2, 24.0), (4, 50.0), (8, 99.0)), parts.row_buckets, low_batch_ms=20.0
    )
    pacing = Pacing(parts, max_wait_ms=5.0, read_ahead_max_ms=500.0)
    assert (pacing.batch_rows(), pacing.room_rows((0, 0, 0), 0.0)) == (8, 16)
    parts.add([job()])
    run(parts, pacing, 100.0)
    assert (pacing.batch_rows(), pacing.room_rows((0, 1, 0), 10.0)) == (1, 1), "one row a batch is best here"
    assert pacing.room_rows((0, 1, 0), 600.0) == 0, "very slow: nothing ahead"


def test_one_job_is_read_ahead_behind_a_single_one_of_many_quick_batches() -> None:
    runs = (0, 0, 8)  # a batch of the low lane

    def room(pacing: Pacing, fetching: int = 0) -> tuple[int, int]:
        """Whatever the lane, and of the low one."""
        return pacing.room_rows(runs, 1.0, (0, 0, fetching)), pacing.rooms(runs, 1.0, (0, 0, fetching))[LOW]

    parts, pacing = paced(1.0)
    parts.add([job(lane=LOW, rows=80)])
    assert room(pacing) == (1, 1)
    assert room(pacing, fetching=80) == (0, 0), "it is on its way"
    parts.add([job(lane=LOW, rows=80)])
    assert room(pacing) == (0, 0), "two jobs are enough"
    parts, pacing = paced(20.0)
    parts.add([job(lane=LOW, rows=80)])
    assert room(pacing) == (0, 0), "200 ms of work are in hand"
    parts, pacing = paced(1.0)
    parts.add([job(lane=LOW, rows=8)])
    assert room(pacing) == (0, 0), "one batch runs and one waits"


def test_what_a_slot_holds_of_lower_lanes_takes_no_room() -> None:
    parts, pacing = paced(10.0)
    assert pacing.rooms((0, 0, 0), 10.0) == (16, 16, 16)
    parts.add([job(lane=LOW, rows=800)])
    assert pacing.rooms((0, 0, 8), 10.0, (0, 0, 50)) == (16, 16, 0)
    parts.add([job(lane=1, rows=80)])
    assert pacing.rooms((0, 8, 8), 10.0) == (16, 0, 0)
    parts.add([job(lane=0) for _ in range(5)])
    assert pacing.rooms((8, 0, 0), 10.0) == (3, 0, 0)
    assert pacing.rooms((0, 0, 8), 600.0) == (3, 0, 0), "very slow: one batch"


def test_behind_a_long_job_each_lower_lane_has_one_batch_in_hand_for_its_turn() -> None:
    parts, pacing = paced(10.0)
    parts.add([job(lane=0, rows=800)])
    assert pacing.rooms((8, 0, 0), 10.0) == (0, 8, 8)
    assert pacing.rooms((8, 0, 0), 10.0, (0, 1, 0)) == (0, 0, 8), "it is on its way"
    parts.add([job(lane=2)])
    assert pacing.rooms((8, 0, 0), 10.0) == (0, 8, 0)
    parts.clear()
    parts.add([job(lane=0) for _ in range(16)])
    assert pacing.rooms((0, 0, 0), 10.0) == (0, 0, 0), "two batches are no long job"


def test_within_a_long_job_of_quick_batches_higher_lanes_are_looked_for_now_and_then() -> None:
    parts, pacing = paced(1.0)
    parts.add([job(lane=LOW, rows=800)])
    run(parts, pacing, 100.0)
    pacing.read(100.0)
    assert not pacing.must_ask(100.0 + 2 * ALONE_LOOK_S), "not twice within a batch"
    run(parts, pacing, 100.0 + 1.5 * LOOK_S)
    assert pacing.must_ask(100.0 + 1.5 * LOOK_S, is_alone=False)
    assert not pacing.must_ask(100.0 + 1.5 * LOOK_S, is_alone=True)
    assert pacing.must_ask(100.0 + 1.5 * ALONE_LOOK_S, is_alone=True)
    parts.clear()
    parts.add([job(lane=0, rows=800)])
    run(parts, pacing, 101.0)
    assert not pacing.must_ask(102.0), "nothing is above"


def test_company_is_not_waited_for_past_a_deadline() -> None:
    import msgspec

    parts, pacing = paced(20.0)
    for now in range(0, 2000, 100):
        parts.add([job()])
        run(parts, pacing, now / 1e3)
        pacing.freed(now)
        pacing.took([msgspec.structs.replace(job(), submitted_ms=now + 1) for _ in range(6)])
    parts.add([job()])
    run(parts, pacing, 2.0)
    pacing.freed(2000.0)
    parts.add([job()])
    assert 4.0 < pacing.patience_ms(2000.0) <= 5.0
    parts.add([msgspec.structs.replace(job(), deadline_ms=2021)])
    assert pacing.patience_ms(2000.0) == 1.0
