"""Failed batches in parts: every row stays, once and in order."""

from __future__ import annotations

import random

import msgspec

from broker.lease import lease_of
from broker.messages import Job, Signature
from workers import halves
from workers.batch import Batch, Piece

BUCKETS = (1, 2, 4, 8, 16, 32, 64)


def bucket(rows: int) -> int:
    return next(size for size in BUCKETS if size >= rows)


def job(number: int, rows: int = 1) -> Job:
    entry = b"%d-0" % number
    return Job(
        f"c-{number}",
        1,
        entry,
        lease_of(1, entry),
        0,
        rows,
        True,
        Signature((), 0),
        b"",
        0,
        60,
        True,
        0,
        1,
        1,
        100,
        number,
        0,
    )


def batch(*rows: int) -> Batch:
    pieces = [Piece(job(number, 100), 10, 10 + count) for number, count in enumerate(rows)]
    return Batch(pieces, sum(rows), bucket(sum(rows)), (7,))


def laid_out(batches: list[Batch]) -> list[tuple[str, int]]:
    return [(p.job.id, row) for part in batches for p in part.pieces for row in range(p.start, p.stop)]


def test_parts_by_rows_hold_every_row_once_in_order_and_pad_to_no_more_than_the_cap() -> None:
    draw = random.Random(3)
    for _ in range(300):
        whole = batch(*(draw.randrange(1, 12) for _ in range(draw.randrange(1, 6))))
        if whole.rows < 2:
            continue
        most = draw.choice([size for size in BUCKETS if size < whole.bucket])
        parts = halves.by_rows(whole, most, bucket)
        assert laid_out(parts) == laid_out([whole])
        assert all(0 < part.rows <= most and part.bucket <= most and part.dims == (7,) for part in parts)
        assert all(part.rows == sum(p.stop - p.start for p in part.pieces) for part in parts)


def test_a_batch_with_no_smaller_bucket_is_halved_all_the_same() -> None:
    assert [part.rows for part in halves.by_rows(batch(3, 2), 5, lambda rows: 8)] == [3, 2]


def test_parts_by_jobs_keep_jobs_whole() -> None:
    first, second = halves.by_jobs(batch(5, 1, 7), bucket)
    assert [[p.job.id for p in part.pieces] for part in (first, second)] == [["c-0", "c-1"], ["c-2"]]
    assert [(part.rows, part.bucket) for part in (first, second)] == [(6, 8), (7, 8)]


def test_without_a_job_the_others_of_its_part_stay() -> None:
    whole = batch(5, 1, 7)
    left = halves.without(whole, lease_of(1, b"1-0"), bucket)
    assert left is not None
    assert [p.job.id for p in left.pieces] == ["c-0", "c-2"]
    assert (left.rows, left.bucket) == (12, 16)
    assert halves.without(whole, lease_of(1, b"9-0"), bucket) is whole
    alone = msgspec.structs.replace(whole, pieces=whole.pieces[:1])
    assert halves.without(alone, lease_of(1, b"0-0"), bucket) is None
