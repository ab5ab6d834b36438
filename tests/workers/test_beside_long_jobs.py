"""A slot that works on a job of thousands of rows: higher lanes are served between its batches, as if it were not there."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from benchmarks.traces.arrivals import Arrival, poisson
from benchmarks.traces.mechanisms import NOW
from benchmarks.traces.simulate import Slot
from broker.messages import Status
from tests.wait import wait_until
from tests.workers.fakes import SPEC, Client, Doubler, LateEngine, RunningSlot
from tests.workers.test_batcher import job, table
from workers.batch_limits import BatchLimits
from workers.batcher import BEGINS_EVERY, Batcher

HIGH, NORMAL, LOW = 1, 2, 3  # on the wire
SLOW, QUICK = 6.0, 0.6
MARK = 7.0


class Worker(Doubler):
    """Takes `ms` a forward; in its third one `begun` is set, and that one waits until `may_go`."""

    def __init__(self, ms: float) -> None:
        super().__init__()
        self.begun, self.may_go = threading.Event(), threading.Event()

        def before() -> None:
            if len(self.batches) == 3:
                self.begun.set()
                self.may_go.wait(10)
            time.sleep(ms / 1e3)

        self.before = before


@pytest.mark.parametrize("ms", [SLOW, QUICK])
@pytest.mark.parametrize(("long_lane", "lane"), [(LOW, HIGH), (LOW, NORMAL), (NORMAL, HIGH)])
def test_jobs_of_a_higher_lane_are_run_within_a_few_batches_of_a_long_job(
    redis_url: str, client: Client, ms: float, long_lane: int, lane: int
) -> None:
    # given
    backend = Worker(ms)
    slot = RunningSlot(redis_url, backend=backend, engine=LateEngine(SPEC, backend), timetable=table((1, ms), (64, ms)))
    batches = 60 if ms == SLOW else 240
    (long_one,) = client.submit(np.ones((64 * batches, 4), "float32"), lane=long_lane)
    with slot:
        # when
        assert backend.begun.wait(10)
        ids = client.submit(*[MARK] * 40, lane=lane)
        backend.may_go.set()
        assert {one.status for one in client.wait(ids)} == {Status.DONE}
        # then
        last = max(at for at, batch in enumerate(backend.batches) if MARK in batch)
        assert client.wait([long_one])[0].status is Status.DONE
    assert last - 3 <= batches / 3, "and not at its end; quick ones are looked for every few milliseconds"


@pytest.mark.parametrize(("rows", "lower_rows"), [(640, 1), (640, 640), (64, 640)])
def test_a_lower_lane_gets_its_eighth_and_no_more_behind_jobs_that_fill_batches_one_after_the_other(
    redis_url: str, client: Client, rows: int, lower_rows: int
) -> None:
    # given more of the higher lane than is run here
    backend = Doubler()
    backend.before = lambda: time.sleep(1e-3)
    slot = RunningSlot(
        redis_url, backend=backend, engine=LateEngine(SPEC, backend), timetable=table((1, 1.0), (64, 1.0)), drain_s=0.1
    )
    client.submit(*[np.ones((rows, 4), "float32")] * (400 * 64 // rows), lane=NORMAL)
    client.submit(*[np.full((lower_rows, 4), MARK, "float32")] * (6400 // lower_rows), lane=LOW)
    # when
    with slot:
        wait_until(lambda: len(backend.batches) >= 250, "they are run")
        begun = [batch[0] == MARK for batch in backend.batches[:250]]
    # then
    assert 250 // 12 <= sum(begun) <= 250 // 6


def test_a_lane_that_rode_along_begins_no_batch_of_its_own() -> None:
    parts = Batcher(SPEC, row_buckets=(1, 2, 4, 8), max_rows=8, batch_bytes=1 << 20)
    parts.batch_limits = BatchLimits(table((1, 5.0), (8, 5.0)), parts.row_buckets, low_batch_ms=0.0)
    parts.add([job(lane=2, rows=500)])
    lanes = []
    for _ in range(3 * BEGINS_EVERY):
        parts.add([job(lane=0)])
        batch = parts.pack()
        assert batch is not None
        lanes.append(batch.lane)
        assert len(batch.pieces) == 2, "the long job rides along"
    assert set(lanes) == {0}


@pytest.mark.parametrize("rows", [1, 16, 1504])
def test_a_high_lane_waits_hardly_longer_whatever_the_low_jobs_are(rows: int) -> None:
    seconds, ms = 6, 5.2
    high = poisson(530.0, seconds, seed=5, lane=0)
    low = [Arrival(0.0, 2, 0.0, rows)] * (int(seconds * 16e3 / ms / rows) + 2)

    def p99(trace: list[Arrival]) -> float:
        found = sorted(Slot(dict.fromkeys((1, 2, 4, 8, 16), ms), NOW).run(sorted(trace)).of(0))
        return found[int(len(found) * 0.99)]

    assert p99(high + low) <= p99(high) + 0.2 * ms
