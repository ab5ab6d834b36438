"""Getting results back: by handle, by id, late, from other processes and threads."""

from __future__ import annotations

import threading
import time

import msgspec
import numpy as np
import pytest

from broker import keys, outcome_codec
from broker.connection import Link
from broker.ends import Fault
from broker.messages import Job, Status
from producer import (
    InvalidInput,
    JobCancelled,
    JobDead,
    JobExpired,
    JobFailed,
    Producer,
    RedisUnavailable,
    ResultExpired,
    ResultTimeout,
)
from tests.producer.fake import MODEL, Rows, Worker, done, double, wait_until

ROW = np.arange(4, dtype=np.float32)


def test_an_inferred_row_comes_back_doubled(producer: Producer, worker: Worker) -> None:
    # when
    result = producer.infer(MODEL, ROW, timeout=20)
    # then
    np.testing.assert_array_equal(result["y"], ROW * 2)
    assert (result.version, result.attempt, result.timings.total_ms) == ("1", 1, 1.75)
    assert result["y"].flags.writeable
    with pytest.raises(KeyError, match="no output 'z'; outputs: y"):
        result["z"]


def test_many_rows_keep_their_axis(producer: Producer, worker: Worker) -> None:
    assert producer.infer(MODEL, np.ones((3, 4), "f4"), timeout=20)["y"].shape == (3, 4)
    assert producer.infer(MODEL, np.ones((1, 4), "f4"), timeout=20)["y"].shape == (1, 4)


def test_a_postprocessed_value_is_plain_python(producer: Producer, redis_url: str) -> None:
    def value(job: Job, rows: Rows) -> bytes:
        note = {"row_errors": {1: "no such label"}, "flags": {"0": "y over 5"}}
        data = msgspec.msgpack.encode({"label": "cat"})
        return done(job, outcome_codec.pack_descriptor("1", 1, b"\0"), data, note, outcome_codec.VALUE)

    with Worker(redis_url, value):
        result = producer.infer(MODEL, ROW, timeout=20)
    assert (result.value, result.outputs) == ({"label": "cat"}, {})
    assert (result.row_errors, result.flags) == ({1: "no such label"}, {0: "y over 5"})


def test_a_large_outcome_is_fetched_from_its_result(producer: Producer, worker: Worker) -> None:
    rows = np.random.default_rng(0).random((2000, 4), np.float32)
    np.testing.assert_array_equal(producer.infer(MODEL, rows, timeout=20)["y"], rows * 2)


@pytest.mark.parametrize(
    ("status", "fate", "error"),
    [(Status.FAILED, "failed", JobFailed), (Status.DEAD, "dead", JobDead)],
)
def test_a_job_that_ended_badly_raises(
    producer: Producer, redis_url: str, status: Status, fate: str, error: type[JobFailed]
) -> None:
    def fail(job: Job, rows: Rows) -> Fault:
        outcome = outcome_codec.encode_failure(job, status, reason="bad_input", text="division by zero")
        return Fault.of(job, fate, reason="bad_input", outcome=outcome)  # type: ignore[arg-type]

    with Worker(redis_url, fail):
        handle = producer.submit(MODEL, ROW)
        with pytest.raises(error, match="division by zero") as caught:
            handle.result(5)
    assert (caught.value.reason, caught.value.job_id, caught.value.attempt) == ("bad_input", handle.id, 1)
    assert handle.status() == fate


def test_a_retried_job_comes_back_with_its_attempt(producer: Producer, redis_url: str) -> None:
    def second_time(job: Job, rows: Rows) -> Fault | bytes:
        return Fault.of(job, "retry", reason="flaky") if job.attempt == 1 else double(job, rows)

    with Worker(redis_url, second_time):
        assert producer.infer(MODEL, ROW, timeout=20).attempt == 2


def test_a_deadline_that_passes_expires_the_job(producer: Producer, redis_url: str, link: Link) -> None:
    # given
    handle = producer.submit(MODEL, ROW, deadline_s=0.001)
    start = link.call("TIME")
    wait_until(lambda: link.call("TIME") > start)
    with Worker(redis_url) as worker, pytest.raises(JobExpired, match="the deadline passed"):
        handle.result(5)
    assert worker.runs == []


def test_a_delayed_job_runs_when_due(producer: Producer, redis_url: str) -> None:
    # given
    handle = producer.submit(MODEL, ROW, delay_s=0.05)
    assert handle.status() == "delayed"
    # then
    with Worker(redis_url):
        np.testing.assert_array_equal(handle.result(5)["y"], ROW * 2)


def test_status_follows_a_job(producer: Producer, redis_url: str) -> None:
    may_end = threading.Event()

    def hold(job: Job, rows: Rows) -> bytes:
        may_end.wait(5)
        return double(job, rows)

    handle = producer.submit(MODEL, ROW)
    assert handle.status() == "waiting"
    with Worker(redis_url, hold):
        wait_until(lambda: handle.status() == "claimed")
        may_end.set()
        wait_until(lambda: handle.status() == "done")
        handle.result(5)
    assert handle.status() == "done"


@pytest.mark.parametrize("delay_s", [None, 60])
def test_a_cancelled_job_never_runs(producer: Producer, redis_url: str, delay_s: float | None) -> None:
    # given
    handle = producer.submit(MODEL, ROW, delay_s=delay_s)
    # when
    assert handle.cancel()
    # then
    assert not handle.cancel()
    with pytest.raises(JobCancelled, match="the job was cancelled"):
        handle.result(5)
    assert handle.status() == "cancelled"


def test_another_client_gets_the_result_by_id(producer: Producer, redis_url: str) -> None:
    with Producer(redis_url) as other:
        # given
        handle = producer.submit(MODEL, ROW)
        assert other.handle(handle.id).status() == "waiting"
        waited: list[np.ndarray] = []
        thread = threading.Thread(target=lambda: waited.append(other.result(handle.id, timeout=20)["y"]))
        thread.start()
        # when
        with Worker(redis_url):
            thread.join(5)
            # then
            np.testing.assert_array_equal(waited[0], ROW * 2)
            np.testing.assert_array_equal(other.result(handle.id, timeout=20)["y"], ROW * 2)
            np.testing.assert_array_equal(handle.result(5)["y"], ROW * 2)


def test_another_client_can_cancel_by_id(producer: Producer, redis_url: str) -> None:
    handle = producer.submit(MODEL, ROW)
    with Producer(redis_url) as other:
        assert other.handle(handle.id).cancel()
    with pytest.raises(JobCancelled):
        handle.result(5)


def test_an_unknown_id_and_a_result_past_its_ttl_say_so(producer: Producer, worker: Worker, link: Link) -> None:
    with pytest.raises(ResultExpired, match="the id is unknown, or its result is past its TTL"):
        producer.result(f"{MODEL}:aaaaaaaaaaaa-1", timeout=20)
    handle = producer.submit(MODEL, ROW)
    handle.result(5)
    link.call("DEL", keys.result(MODEL, handle.id.removeprefix(f"{MODEL}:")))
    with pytest.raises(ResultExpired):
        producer.result(handle.id, timeout=20)
    with pytest.raises(InvalidInput, match="is not a job id"):
        producer.result("nonsense")


def test_a_timeout_tells_the_state_of_the_pool_and_does_not_cancel(producer: Producer, redis_url: str) -> None:
    # given
    handle = producer.submit(MODEL, ROW)
    # when
    with pytest.raises(ResultTimeout, match=r"after 0.05 s \(depth 1, the oldest is 0.\d s old, 0 slots ready\)"):
        handle.result(0.05)
    # then
    with Worker(redis_url):
        handle.result(5)


def test_a_timeout_that_is_no_number_is_refused_and_a_negative_one_only_looks(producer: Producer) -> None:
    # given
    handle = producer.submit(MODEL, ROW)
    # then
    for timeout in (float("nan"), "1", True, [1]):
        with pytest.raises(InvalidInput, match="is no number of seconds; write an int or a float, or None"):
            handle.result(timeout)  # type: ignore[arg-type]
    for timeout in (-1, float("-inf"), np.float32(-0.5)):
        with pytest.raises(ResultTimeout, match="after 0 s"):
            handle.result(timeout)  # type: ignore[arg-type]


@pytest.mark.parametrize("id", [b"double:aaaa-1", 5, None, "nonsense", "double:aaaa-\u0663", "\ud800:aaaa-1"])
def test_what_is_no_id_is_refused(producer: Producer, id: object) -> None:
    with pytest.raises(InvalidInput, match=r"is not a job id; write it as handle\.id gives it"):
        producer.result(id)  # type: ignore[arg-type]


def test_the_shortest_timeout_does_not_block_for_ever(producer: Producer) -> None:
    """Redis 6.2 takes a BLPOP timeout of 1 ms for 0, which is for ever."""
    handle = producer.submit(MODEL, ROW)
    started = time.monotonic()
    for timeout in (0, 0.0001, 0.001):
        with pytest.raises(ResultTimeout):
            handle.result(timeout)
    assert time.monotonic() - started < 2


def test_a_lost_reply_is_found_by_its_stored_result(producer: Producer, link: Link, worker: Worker) -> None:
    # given
    handles = producer.submit_many(MODEL, [ROW] * 500)
    wait_until(lambda: len(worker.runs) == 500)
    last = keys.result(MODEL, handles[-1]._job)
    wait_until(lambda: link.call("EXISTS", last))
    link.call("DEL", keys.reply(MODEL, producer.client))
    # then
    for handle in handles:
        handle.result(5)


def test_redis_going_away_while_waiting_is_told(
    tmp_path: object, redis_url: str, link: Link, producer: Producer
) -> None:
    # given
    with Producer(redis_url, submit_timeout_s=0.2) as impatient:
        handle = impatient.submit(MODEL, ROW)
        for part in (impatient._line, handle._channel.reader):  # type: ignore[attr-defined]
            part._link = Link("unix:///nowhere/redis.sock")
        # then
        with pytest.raises(RedisUnavailable, match="no Redis at"):
            handle.result(30)
