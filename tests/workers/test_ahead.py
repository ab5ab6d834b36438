"""One batch runs, one more is sent ahead: when that is done, and who is blamed when the engine dies between them."""

from __future__ import annotations

import threading
import time

import numpy as np

from broker import keys
from tests.wait import wait_until
from tests.workers.fakes import KILLS, MODEL, RAISES, SPEC, Client, Doubler, LateEngine, RunningSlot, first
from workers.ahead import ALONE_S, QUICK_MS, SLOW_MS, Ahead
from workers.exits import Exit

HIGH, NORMAL, LOW = range(3)


# --- the decision ---------------------------------------------------------------------------


def test_a_batch_that_others_could_still_join_is_never_sent_ahead() -> None:
    assert not Ahead().may_send(HIGH, 0.1, is_full=False, now=0.0)
    assert Ahead().may_send(HIGH, 0.1, is_full=True, now=0.0)


def test_a_higher_lane_heard_of_lately_keeps_a_batch_from_being_sent_ahead_unless_it_is_quick() -> None:
    ahead = Ahead()
    assert ahead.may_send(LOW, 20.0, is_full=True, now=5.0)
    ahead.note(HIGH, HIGH, 5.0)
    assert not ahead.may_send(LOW, 20.0, is_full=True, now=5.0 + ALONE_S)
    assert ahead.may_send(LOW, QUICK_MS, is_full=True, now=5.0 + ALONE_S)
    assert ahead.may_send(HIGH, 20.0, is_full=True, now=5.0)
    assert ahead.may_send(LOW, 20.0, is_full=True, now=5.1 + ALONE_S)
    assert not ahead.may_send(HIGH, 2 * SLOW_MS, is_full=True, now=5.0), "it would gain nothing"


def test_the_same_lane_keeps_nothing_back() -> None:
    ahead = Ahead()
    ahead.note(NORMAL, LOW, 5.0)
    assert ahead.may_send(NORMAL, 20.0, is_full=True, now=5.0)
    assert not ahead.may_send(LOW, 20.0, is_full=True, now=5.0)


# --- the slot -------------------------------------------------------------------------------


class Gate:
    """Holds each forward until it is told to go on."""

    def __init__(self) -> None:
        self.backend = Doubler()
        self.backend.before = self._before
        self.begun = 0
        self._go = threading.Semaphore(0)

    def _before(self) -> None:
        self.begun += 1
        assert self._go.acquire(timeout=10)

    def open(self, times: int = 1) -> None:
        self._go.release(times)


def test_the_next_full_batch_waits_in_the_engine_and_no_more_than_one(redis_url: str, client: Client) -> None:
    # given a backlog of four full batches
    gate = Gate()
    slot = RunningSlot(redis_url, engine=LateEngine(SPEC, gate.backend))
    ids = client.submit(*(float(value) for value in range(4 * 64)))
    with slot:
        runner = slot.slot._runner
        # when the first one runs
        wait_until(lambda: gate.begun == 1 and len(runner._sent) == 2, "the second one is sent ahead")
        # then there is no third one, in the engine or leased
        assert sum(runner.rows) == 2 * 64
        assert len(slot.board.held) == 2 * 64
        gate.open(100)
        # and each gets its own result
        assert [first(outcome) for outcome in client.wait(ids)] == [2.0 * value for value in range(4 * 64)]


def test_a_part_of_a_batch_waits_for_company_and_is_not_sent_ahead(redis_url: str, client: Client) -> None:
    gate = Gate()
    slot = RunningSlot(redis_url, engine=LateEngine(SPEC, gate.backend))
    ids = client.submit(*(float(value) for value in range(64 + 10)))
    with slot:
        runner = slot.slot._runner
        wait_until(lambda: gate.begun == 1 and len(slot.board.held) == 74, "the rest is claimed")
        assert len(runner._sent) == 1
        ids += client.submit(*(float(value) for value in range(74, 84)))
        wait_until(lambda: len(slot.board.held) == 84, "the company is claimed")
        gate.open(100)
        client.wait(ids)
    assert [len(batch) for batch in gate.backend.batches] == [64, 32], "20 rows, padded to 32"


def test_a_batch_sent_ahead_is_given_back_unharmed_when_the_engine_dies_of_the_one_before(
    redis_url: str, client: Client
) -> None:
    # given an engine that dies of its first batch while the second one waits in it
    gate = Gate()
    slot = RunningSlot(redis_url, engine=LateEngine(SPEC, gate.backend))
    client.submit(KILLS, *([1.0] * 127))
    slot.thread.start()
    wait_until(lambda: len(slot.slot._runner._sent) == 2, "the second batch is sent ahead")
    gate.open(100)
    assert slot.join().exit is Exit.ENGINE_DIED
    # then only the jobs of the first are marked
    pending = client.link.call(
        "XPENDING", keys.lane(MODEL, "normal"), keys.GROUP, "-", "+", 200, keys.RETURNED
    )  # entry, consumer, idle, deliveries
    assert sorted(one[3] for one in pending) == [1] * 64 + [2] * 64
    slot.engine.close()


def test_a_batch_that_the_engine_prepares_while_another_computes_is_blamed_when_it_dies_of_that(
    redis_url: str, client: Client
) -> None:
    # given an engine that works on its second batch, say its preprocess, before it has answered the first
    gate = Gate()
    slot = RunningSlot(redis_url, engine=LateEngine(SPEC, gate.backend))
    client.submit(*([1.0] * 64))
    client.submit(*([1.0] * 64))
    slot.thread.start()
    runner = slot.slot._runner
    wait_until(lambda: gate.begun == 1 and len(runner._sent) == 2, "the second batch is sent ahead")
    second = {piece.job.entry for piece in runner._sent[1].pieces}
    slot.engine.progress.turn_to(runner._seq)
    # when it dies
    slot.engine._is_dead = True
    slot.engine._theirs.send(b"!")
    assert slot.join().exit is Exit.ENGINE_DIED
    gate.open(100)
    # then the second batch is marked, and the first is not
    lane = keys.lane(MODEL, "normal")
    pending = client.link.call("XPENDING", lane, keys.GROUP, "-", "+", 200, keys.RETURNED)
    assert {one[0] for one in pending if one[3] == 2} == second
    assert len(pending) == 128
    slot.engine.close()


def test_a_failed_batch_is_bisected_behind_the_one_sent_ahead(redis_url: str, client: Client) -> None:
    gate = Gate()
    slot = RunningSlot(redis_url, engine=LateEngine(SPEC, gate.backend))
    ids = client.submit(RAISES, *(float(value) for value in range(1, 192)))
    with slot:
        wait_until(lambda: len(slot.slot._runner._sent) == 2, "the second batch is sent ahead")
        gate.open(1000)
        outcomes = client.wait(ids)
    assert [outcome.status.name for outcome in outcomes] == ["FAILED"] + ["DONE"] * 191
    assert [first(outcome) for outcome in outcomes[1:]] == [2.0 * value for value in range(1, 192)]


def test_memory_is_measured_though_the_engine_never_waits(redis_url: str, client: Client) -> None:
    # given a backlog that keeps the engine busy all the time
    backend = Doubler()
    backend.before = lambda: time.sleep(0.002)
    slot = RunningSlot(redis_url, engine=LateEngine(SPEC, backend), retire={"sample_every_s": 0.005})
    ids = client.submit(*([1.0] * 256), *([2.0] * 256))
    with slot:
        client.wait(ids)
        assert slot.board.host_bytes == 1, "the fake's answer"


def test_a_job_of_many_rows_is_put_together_from_batches_that_were_sent_ahead(redis_url: str, client: Client) -> None:
    rows = np.arange(240 * 4, dtype="float32").reshape(240, 4)
    backend = Doubler()
    with RunningSlot(redis_url, engine=LateEngine(SPEC, backend)):
        (outcome,) = client.wait(client.submit(rows))
    assert np.array_equal(np.frombuffer(outcome.data, "float32").reshape(240, 4), rows * 2)
