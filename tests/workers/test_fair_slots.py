"""Slots on a real Redis: a burst is not split over idle slots, nobody hoards, and a high job waits for one low batch at most."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from broker import keys, timetable
from broker.connection import Link
from broker.messages import Status
from tests.wait import wait_until
from tests.workers.fakes import MODEL, ROW_BUCKETS, SPEC, Client, Doubler, LateEngine, RunningSlot, first
from workers.exchange import Timed
from workers.timetable import KEPT, Timetable

HIGH, NORMAL, LOW = 1, 2, 3


def known(ms: float) -> Timetable:
    """A forward takes `ms` whatever its rows."""
    return Timetable([Timed(rows, (), ms) for rows in ROW_BUCKETS], floor_s=60.0, factor=20.0)


class Sleeper(Doubler):
    """Each forward takes some ms."""

    def __init__(self, ms: float) -> None:
        super().__init__()
        self.before = lambda: time.sleep(ms / 1e3)


@contextlib.contextmanager
def idle_slots(url: str, *backends: Doubler, ms: float = 1.0) -> Iterator[list[RunningSlot]]:
    """One slot per backend, each in its blocked read."""
    with contextlib.ExitStack() as stack:
        slots = [
            stack.enter_context(
                RunningSlot(url, name=f"h/{at}", engine=LateEngine(SPEC, one), timetable=known(ms), block_ms=1000)
            )
            for at, one in enumerate(backends)
        ]
        _all_blocked(slots)
        yield slots


def _all_blocked(slots: list[RunningSlot]) -> None:
    wait_until(lambda: all(one.slot._leases.claimer.is_blocked for one in slots), "all slots are idle")


def test_a_burst_goes_to_one_idle_slot_as_one_batch(redis_url: str, client: Client) -> None:
    backends = [Doubler() for _ in range(4)]
    with idle_slots(redis_url, *backends) as slots:
        for count in (8, 64, 3):
            client.wait(client.submit(*(float(number) for number in range(count))))
            _all_blocked(slots)
    sizes = sorted(len(batch) for one in backends for batch in one.batches)
    assert sizes == [4, 8, 64], "three bursts, three batches (three rows are padded to four)"


def test_the_rest_of_a_burst_is_read_before_the_engine_begins_when_jobs_are_smaller_than_before(
    redis_url: str, client: Client
) -> None:
    backend, ms = Doubler(), [Timed(rows, (), 1.0) for rows in ROW_BUCKETS for _ in range(KEPT)]
    times = Timetable(ms, floor_s=60.0, factor=20.0)
    with RunningSlot(redis_url, backend=backend, timetable=times, block_ms=1000) as slot:
        # given: eight jobs were a batch
        for _ in range(6):
            client.wait(client.submit(np.ones((8, 4))))
        _all_blocked([slot])
        assert slot.slot._leases.claimer.claims.jobs_in((64, 64, 64))[1] < 10
        # when
        del backend.batches[:]
        client.wait(client.submit(*([1.0] * 20)))
    # then
    assert [len(batch) for batch in backend.batches] == [32], "20 rows, padded"


def test_more_than_a_batch_is_shared_by_idle_slots_a_batch_each(redis_url: str, client: Client) -> None:
    backends = [Sleeper(50.0) for _ in range(3)]
    with idle_slots(redis_url, *backends, ms=50.0):
        client.wait(client.submit(*([1.0] * 192)))
    assert [[len(batch) for batch in one.batches] for one in backends] == [[64]] * 3


def test_while_one_slot_is_busy_the_next_job_goes_to_an_idle_one(redis_url: str, client: Client) -> None:
    gate, begun = threading.Event(), []
    backends = [Doubler(), Doubler()]
    for at, one in enumerate(backends):
        one.before = lambda at=at: (begun.append(at), gate.wait(10))  # type: ignore[misc, func-returns-value]
    with idle_slots(redis_url, *backends):
        ids = client.submit(1.0)
        wait_until(lambda: len(begun) == 1, "one slot is busy")
        ids += client.submit(2.0)
        wait_until(lambda: len(begun) == 2, "the other one took the next job")
        gate.set()
        client.wait(ids)
    assert sorted(begun) == [0, 1]


@pytest.mark.parametrize("is_first", [True, False], ids=["jobs first", "slot first"])
def test_a_slot_in_a_long_forward_leaves_what_comes_to_the_others(
    redis_url: str, client: Client, is_first: bool
) -> None:
    # given a slot in a long forward, and more jobs than a batch: its claim script found them, or its blocked read
    gate, held, long = threading.Event(), threading.Event(), Doubler()
    long.before = lambda: (held.set(), gate.wait(10))  # type: ignore[assignment, func-returns-value]
    slot = RunningSlot(redis_url, name="h/0", engine=LateEngine(SPEC, long), timetable=known(60_000.0), block_ms=1000)
    ids = client.submit(*([1.0] * 104)) if is_first else []
    with slot:
        if not is_first:
            _all_blocked([slot])
            ids = client.submit(*([1.0] * 104))
        assert held.wait(10)
        # when another slot comes
        with RunningSlot(redis_url, name="h/1"):
            client.wait(ids[64:])
        # then the busy one had read none of them ahead
        assert len(slot.board.held) == 64
        gate.set()
        client.wait(ids)
    assert len(long.batches) == 1


class NearlyDone(Doubler):
    """A forward of 20 ms that tells when it is about to end, and ends only when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.is_armed = False
        self.is_near = threading.Event()
        self.may_end = threading.Event()
        self.before = self._before

    def _before(self) -> None:
        time.sleep(0.02)
        if self.is_armed:
            self.is_armed = False
            self.is_near.set()
            assert self.may_end.wait(10)


def test_a_high_job_waits_for_the_low_batch_that_runs_and_for_no_other(redis_url: str, client: Client) -> None:
    # given a flood of low jobs, in batches of 20 ms, and a high lane that was heard of lately (see workers/ahead.py)
    backend = NearlyDone()
    slot = RunningSlot(redis_url, engine=LateEngine(SPEC, backend), timetable=known(20.0))
    low = [one for _ in range(4) for one in client.submit(*([1.0] * 256), lane=LOW)]
    with slot:
        client.wait(client.submit(99.0, lane=HIGH))
        for number in range(5):
            # when a high job comes after the slot has read ahead for the last time
            backend.is_near.clear()
            backend.may_end.clear()
            backend.is_armed = True
            assert backend.is_near.wait(10)
            begun = len(backend.batches)
            ids = client.submit(100.0 + number, lane=HIGH)
            backend.may_end.set()
            # then it is in the next batch all the same
            client.wait(ids)
            assert 100.0 + number in backend.batches[begun]
        client.wait(low)


def test_senders_that_wait_for_their_results_share_forwards(redis_url: str, client: Client) -> None:
    backend = Sleeper(20.0)
    with RunningSlot(redis_url, engine=LateEngine(SPEC, backend), timetable=known(20.0)):

        def one_after_the_other(name: str) -> None:
            mine = Client(redis_url, client=name)
            for number in range(25):
                mine.wait(mine.submit(float(number)))
            mine.link.close()

        threads = [threading.Thread(target=one_after_the_other, args=(f"sender{at}",)) for at in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert len(backend.batches) < 50, "a hundred jobs; without waiting they fall into two groups that take turns"


def test_a_job_that_cannot_end_in_time_expires_before_a_forward_is_spent_on_it(redis_url: str, client: Client) -> None:
    backend = Doubler()
    with RunningSlot(redis_url, backend=backend, timetable=known(5000.0)):
        late, fine = client.wait(client.submit(1.0, deadline_ms=4000) + client.submit(2.0, deadline_ms=60_000))
    assert (late.status, late.note["reason"], first(fine)) == (Status.EXPIRED, "deadline", 4.0)
    assert backend.batches == [[2.0]]
    assert client.left() == (0, 0)


def test_what_forwards_took_is_there_for_the_next_life(redis_url: str, client: Client, link: Link) -> None:
    digest, device = "ab" * 32, "h/cpu"
    slot = RunningSlot(redis_url, timetable=known(1.0))
    slot.slot._upkeep._remember = lambda sizes: timetable.save(MODEL, digest, device, sizes)
    slot.slot._upkeep._save_schedule.due_at = float("inf")  # however slow this machine is: written at the end alone
    with slot:
        for _ in range(20):
            client.wait(client.submit(1.0))
        assert timetable.load(link, MODEL, digest, device) == []
    learned = {one.rows: one for one in timetable.load(link, MODEL, digest, device)}
    assert learned.keys() == set(ROW_BUCKETS)
    assert learned[1].median_ms < 1.0 == learned[64].median_ms
    next_life = Timetable([Timed(1, (), 50.0)], floor_s=1.0, factor=20.0, learned=learned.values())
    assert next_life.typical_ms(1, ()) == pytest.approx(learned[1].median_ms)
    assert link.call("PTTL", keys.times(MODEL, digest, device)) > 0
