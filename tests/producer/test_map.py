"""`map`: many jobs through a bounded window."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from broker import outcome_codec
from broker.connection import Link
from broker.ends import Fault
from broker.messages import Job, Status
from broker.spec import Limits
from producer import JobFailed, Producer
from tests.producer.fake import MODEL, Rows, Worker, double, drain_fast

ROW = np.arange(4, dtype=np.float32)


@pytest.mark.parametrize("ordered", [True, False])
def test_map_gives_every_result_through_a_bounded_window(producer: Producer, worker: Worker, ordered: bool) -> None:
    # given
    taken = 0

    def inputs():  # type: ignore[no-untyped-def]
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield np.full(4, number, np.float32)

    # when
    got = []
    for result in producer.map(MODEL, inputs(), window=64, ordered=ordered, timeout=20):
        got.append(result.index)
        assert result["y"][0] == 2 * result.index
        assert taken <= len(got) + 64
    # then
    assert (got if ordered else sorted(got)) == list(range(1000))


def test_map_yields_failures_in_their_place_when_asked(producer: Producer, redis_url: str) -> None:
    def odd_fails(job: Job, rows: Rows) -> Fault | bytes:
        if rows[0][0] % 2 == 0:
            return double(job, rows)
        outcome = outcome_codec.encode_failure(job, Status.FAILED, reason="odd", text="odd")
        return Fault.of(job, "failed", reason="odd", outcome=outcome)

    inputs = [np.full(4, number, np.float32) for number in range(4)]
    with Worker(redis_url, odd_fails):
        kinds = [type(one).__name__ for one in producer.map(MODEL, inputs, timeout=5, return_errors=True)]
        with pytest.raises(JobFailed):
            list(producer.map(MODEL, inputs, timeout=20))
    assert kinds == ["Result", "JobFailed", "Result", "JobFailed"]


def test_a_map_larger_than_the_queue_waits_for_room(
    producer: Producer, redis_url: str, link: Link, publish: Callable[..., None]
) -> None:
    publish(limits=Limits(max_jobs=50))
    drain_fast(link)
    with Worker(redis_url):
        assert sum(1 for _ in producer.map(MODEL, [ROW] * 300, timeout=20)) == 300
