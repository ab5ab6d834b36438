"""Lanes, deadlines and company among the jobs in hand. Pure."""

from __future__ import annotations

import msgspec

from broker.messages import Job
from tests.workers.test_batcher import batcher, ids, job, table
from workers.batch_limits import BatchLimits
from workers.batcher import TRIES_ONE_EVERY, Batcher

HIGH, NORMAL, LOW = range(3)


def timed(*times: tuple[int, float], low_batch_ms: float = 20.0) -> Batcher:
    parts = batcher()
    parts.batch_limits = BatchLimits(table(*times), parts.row_buckets, low_batch_ms=low_batch_ms)
    return parts


def due(deadline_ms: int, *, rows: int = 1) -> Job:
    return msgspec.structs.replace(job(rows=rows), deadline_ms=deadline_ms)


def test_each_lane_that_waits_begins_one_of_nine_batches_however_full_the_others_are() -> None:
    parts = batcher()
    begun = []
    for _ in range(36):
        parts.add([job(lane=lane, rows=8) for lane in (HIGH, NORMAL, LOW)])
        batch = parts.pack()
        assert batch is not None
        begun.append(batch.pieces[0].job.lane)
    assert begun.count(LOW) == begun.count(NORMAL) == 4
    assert all(LOW in begun[at : at + 10] and NORMAL in begun[at : at + 10] for at in range(20))


def test_a_high_job_never_waits_for_two_low_batches_in_a_row() -> None:
    parts = batcher()
    parts.add([job(lane=LOW, rows=8) for _ in range(40)])
    for _ in range(20):  # only low jobs: nobody waits, nothing is counted
        parts.pack()
    parts.add([job(lane=HIGH)])
    batch = parts.pack()
    assert batch is not None
    assert batch.pieces[0].job.lane == HIGH


def test_low_rows_fill_the_padding_of_a_higher_batch_and_do_not_make_it_late() -> None:
    parts = timed((1, 10.0), (2, 20.0), (4, 40.0), (8, 80.0), low_batch_ms=0.0)
    high, low = [job(lane=HIGH) for _ in range(3)], [job(lane=LOW) for _ in range(9)]
    parts.add([*high, *low])
    batch = parts.pack()
    assert ids(batch) == [one.id for one in (*high, low[0])]
    assert batch is not None
    assert batch.bucket == 4


def test_lower_rows_join_freely_where_the_forward_takes_no_longer() -> None:
    parts = timed((1, 10.0), (2, 10.0), (4, 10.0), (8, 10.0))
    parts.add([job(lane=HIGH), *[job(lane=LOW) for _ in range(9)]])
    batch = parts.pack()
    assert batch is not None
    assert batch.rows == 8


def test_a_low_batch_takes_no_longer_than_it_may_and_higher_ones_any_time() -> None:
    parts = timed((1, 8.0), (2, 9.0), (4, 19.0), (8, 30.0))
    parts.add([job(lane=LOW) for _ in range(9)])
    batch = parts.pack()
    assert batch is not None
    assert batch.rows == 4
    parts.add([job(lane=NORMAL) for _ in range(9)])
    batch = parts.pack()
    assert batch is not None
    assert batch.rows == 8


def test_a_job_that_could_not_end_in_time_even_alone_is_given_up_unrun() -> None:
    parts = timed((1, 10.0), (8, 15.0))
    late, fits = due(1009), due(1011)
    parts.add([late, fits])
    assert parts.hopeless(1000.0) == [late]
    assert ids(parts.pack()) == [fits.id]


def test_late_jobs_make_no_batch_small_and_are_given_up_while_others_fill_it() -> None:
    parts = timed((1, 2.0), (2, 4.0), (4, 6.0), (8, 10.0))
    tight, rest = [due(1005) for _ in range(3)], [job() for _ in range(8)]
    parts.add([*tight, *rest])
    assert parts.hopeless(1000.0) == tight, "in a batch of eight they are late, and without them it is full as well"
    assert ids(parts.pack()) == [one.id for one in rest]
    tight = [due(1005) for _ in range(3)]
    parts.add(tight)
    assert parts.hopeless(1000.0) == [], "nobody else needs the engine: three take 6 ms, one might still make it"
    assert ids(parts.pack()) == [one.id for one in tight]


def test_jobs_without_deadlines_are_never_given_up_and_none_while_t_is_unknown() -> None:
    parts = batcher()
    parts.add([job(), due(1001)])
    assert parts.hopeless(1000.0) == []
    assert parts.hopeless(1002.0) != [], "past is past"
    assert parts.rows == 1


def test_a_wrong_t_does_not_give_up_jobs_for_ever() -> None:
    parts = timed((1, 60_000.0))
    for _ in range(TRIES_ONE_EVERY):
        parts.add([due(31_000)])
        assert len(parts.hopeless(1000.0)) == 1
    last = due(31_000)
    parts.add([last])
    assert parts.hopeless(1000.0) == []
    assert ids(parts.pack()) == [last.id], "it runs, and T is measured"


def test_a_job_that_was_begun_is_not_given_up() -> None:
    parts = timed((8, 10.0))
    big = due(1100, rows=20)
    parts.add([big])
    assert parts.hopeless(1000.0) == []
    parts.pack()
    assert parts.hopeless(1099.0) == []
    assert ids(parts.pack()) == [big.id]
