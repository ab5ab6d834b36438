"""Batches by shape, rows and bytes; pure, so no clock and no Redis here."""

from __future__ import annotations

import random
import re

import pytest

from broker.lease import lease_of
from broker.messages import Column, Job, Signature
from broker.spec import ModelSpec, TensorSpec
from workers.batch import Batch
from workers.batch_limits import BatchLimits
from workers.batcher import Batcher
from workers.exchange import Timed
from workers.timetable import Timetable

FIXED = ModelSpec(
    name="m", version="1", takes="tensors", inputs=(TensorSpec("x", "float32", (4,)),),
    outputs=(TensorSpec("y", "float32", (1,)),), max_rows=8,
)  # fmt: skip
VARYING = ModelSpec(
    name="m", version="1", takes="tensors", inputs=(TensorSpec("x", "float32", ("seq",)),),
    outputs=(TensorSpec("y", "float32", (1,)),), max_rows=8, buckets={"seq": (4, 8, 16)},
)  # fmt: skip
RAW = ModelSpec(
    name="m", version="1", takes="bytes", inputs=(TensorSpec("x", "float32", (4,)),),
    outputs=(TensorSpec("y", "float32", (1,)),), max_rows=8,
)  # fmt: skip
numbers = iter(range(1, 1_000_000))


def job(*, rows: int = 1, lane: int = 1, seq: int = 4, deliveries: int = 1, size: int = 100, kind: int = 0) -> Job:
    number = next(numbers)
    entry = b"%d-0" % number
    column = Column("x", "float32", (seq,), 4 * seq)
    return Job(
        f"c-{number}", lane, entry, lease_of(lane, entry), kind, rows, True, Signature((column,), 4 * seq), b"", 0, 60, True, 0, 1,
        deliveries, size, number, 0,
    )  # fmt: skip


def batcher(spec: ModelSpec = FIXED, *, batch_bytes: int = 1 << 20) -> Batcher:
    return Batcher(spec, row_buckets=(1, 2, 4, 8), max_rows=8, batch_bytes=batch_bytes)


def table(*times: tuple[int, float]) -> Timetable:
    return Timetable([Timed(rows, (), ms) for rows, ms in times], floor_s=1.0, factor=20.0)


def ids(batch: Batch | None) -> list[str]:
    assert batch is not None
    return [piece.job.id for piece in batch.pieces]


def test_a_batch_takes_all_that_waits_up_to_its_rows_and_pads_to_the_next_bucket() -> None:
    parts = batcher()
    jobs = [job() for _ in range(11)]
    assert parts.add(jobs) == []
    first, second = parts.pack(), parts.pack()
    assert ids(first) == [one.id for one in jobs[:8]]
    assert ids(second) == [one.id for one in jobs[8:]]
    assert first is not None
    assert second is not None
    assert (first.rows, first.bucket, second.rows, second.bucket) == (8, 8, 3, 4)
    assert parts.pack() is None
    assert parts.rows == 0


def test_higher_lanes_go_first_and_every_eighth_batch_starts_at_the_lowest() -> None:
    parts = batcher()
    starts = []
    low = [job(lane=2, rows=8) for _ in range(2)]
    parts.add(low)
    for _ in range(9):
        parts.add([job(lane=0, rows=8)])
        batch = parts.pack()
        assert batch is not None
        starts.append(batch.pieces[0].job.lane)
    assert starts == [0] * 7 + [2] + [0]


def test_now_and_then_a_batch_is_as_large_as_may_be_though_smaller_ones_do_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.batcher.FULL_EVERY", 6)
    parts = batcher()
    times = table((1, 10.0), (2, 24.0), (4, 50.0), (8, 99.0))  # one row a batch is best
    parts.batch_limits = BatchLimits(times, parts.row_buckets, low_batch_ms=20.0)
    parts.add([job() for _ in range(20)])
    packed = [parts.pack() for _ in range(6)]
    assert [batch.rows for batch in packed if batch is not None] == [1, 1, 1, 8, 1, 8], (
        "the 4th early, the 6th in its turn"
    )


def test_shapes_are_never_mixed() -> None:
    parts = batcher(VARYING)
    parts.add([job(seq=3), job(seq=12), job(seq=4), job(seq=16)])
    first, second = parts.pack(), parts.pack()
    assert first is not None
    assert second is not None
    assert [piece.job.signature.columns[0].shape[0] for piece in first.pieces] == [3, 4]
    assert (first.dims, second.dims) == ((4,), (16,))
    assert [piece.job.signature.columns[0].shape[0] for piece in second.pieces] == [12, 16]


def test_no_job_is_passed_over_twice() -> None:
    parts = batcher(VARYING)
    draw = random.Random(5)
    waiting: dict[str, Job] = {}  # in order of arrival
    passed: dict[str, int] = {}
    for _ in range(400):
        fresh = [job(seq=draw.choice((4, 8, 16))) for _ in range(draw.randrange(1, 6))]
        waiting |= {one.id: one for one in fresh}
        parts.add(fresh)
        taken = ids(parts.pack())
        order = list(waiting)
        newest = max(order.index(one) for one in taken)
        for one in set(order[:newest]) - set(taken):
            passed[one] = passed.get(one, 0) + 1
        for one in taken:
            del waiting[one]
    assert max(passed.values()) == 1, "some were overtaken once, none twice"


def test_a_job_of_many_rows_is_split_and_its_chunks_let_higher_lanes_in_between() -> None:
    parts = batcher()
    big, urgent = job(rows=20, lane=2), job(lane=0)
    parts.add([big])
    first = parts.pack()
    parts.add([urgent])
    rest = [parts.pack(), parts.pack()]
    assert first is not None
    assert [(p.start, p.stop) for p in first.pieces] == [(0, 8)]
    assert rest[0] is not None
    assert rest[1] is not None
    assert ids(rest[0]) == [urgent.id, big.id]
    assert [(p.start, p.stop) for p in rest[0].pieces] == [(0, 1), (8, 15)]
    assert [(p.start, p.stop) for p in rest[1].pieces] == [(15, 20)]
    assert parts.rows == 0


def test_a_marked_job_runs_alone() -> None:
    parts = batcher()
    plain, marked, after = job(), job(deliveries=2), job()
    parts.add([plain, marked, after])
    assert ids(parts.pack()) == [plain.id, after.id]
    assert ids(parts.pack()) == [marked.id]


def test_bytes_bound_a_batch_but_never_keep_the_first_job_out() -> None:
    parts = batcher(batch_bytes=250)
    jobs = [job(size=1000), job(size=100), job(size=100), job(size=100)]
    parts.add(jobs)
    assert ids(parts.pack()) == [jobs[0].id]
    assert ids(parts.pack()) == [jobs[1].id, jobs[2].id]


@pytest.mark.parametrize(
    ("spec", "misfit", "text"),
    [
        (FIXED, job(seq=5), r"must be float32\[4\] per row"),
        (VARYING, job(seq=17), "the largest bucket is 16"),
        (FIXED, job(kind=1), "takes tensors"),
        (RAW, job(kind=0), "takes raw input"),
    ],
)
def test_a_job_that_does_not_fit_the_model_comes_back_with_the_reason(spec: ModelSpec, misfit: Job, text: str) -> None:
    parts = batcher(spec)
    (found,) = parts.add([misfit])
    assert re.search(text, found.text)
    assert parts.rows == 0


def test_clear_and_drop_forget_jobs_and_their_rows() -> None:
    parts = batcher()
    jobs = [job(rows=3), job(rows=2), job(rows=20)]
    parts.add(jobs)
    parts.pack()
    parts.drop({jobs[2].lease})
    assert parts.rows == 0
    parts.add(jobs[:2])
    assert parts.clear() == jobs[:2]
    assert parts.rows == 0


def test_a_batch_never_has_more_rows_than_the_cap_of_its_shape() -> None:
    parts = batcher(VARYING)
    parts.batch_limits = BatchLimits(
        table(), parts.row_buckets, low_batch_ms=0.0, cap=lambda dims: 2 if dims == (16,) else 8
    )
    parts.add([job(seq=16, rows=5), job(seq=16), job(seq=4, rows=7), job(seq=16, rows=3, deliveries=2)])
    batches = []
    while batch := parts.pack():
        batches.append(batch)
    assert [(batch.dims, batch.rows, batch.bucket) for batch in batches if batch.dims == (4,)] == [((4,), 7, 8)]
    long = [batch for batch in batches if batch.dims == (16,)]
    assert sum(batch.rows for batch in long) == 9
    assert max(batch.bucket for batch in long) == 2
    assert parts.rows == 0
