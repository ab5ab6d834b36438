"""Submitting against a real Redis: what is taken, what is refused, and what is never run twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from broker import keys
from broker.connection import Link
from broker.spec import Limits
from producer import (
    InvalidInput,
    KeyConflict,
    PayloadTooLarge,
    PenstockError,
    Producer,
    QueueFull,
    UnknownModel,
)
from tests.producer.fake import MODEL, Worker, drain_fast

ROW = np.arange(4, dtype=np.float32)
Publish = Callable[..., None]


def depth(link: Link) -> int:
    return int(link.call("XLEN", keys.lane(MODEL, "normal")))


def test_a_job_of_an_unpublished_model_is_refused(producer: Producer) -> None:
    with pytest.raises(UnknownModel, match="no model named 'nobody' is published; see `penstock models`"):
        producer.submit("nobody", ROW)


def test_many_jobs_are_queued_in_order_whatever_the_chunks(producer: Producer, link: Link) -> None:
    # when
    handles = producer.submit_many(MODEL, [ROW] * 600)
    # then
    entries = [entry for entry, _ in link.call("XRANGE", keys.lane(MODEL, "normal"), "-", "+")]
    assert [handle._place[1].encode() for handle in handles] == entries


def test_a_bad_input_among_many_names_its_place_and_what_was_queued(producer: Producer, link: Link) -> None:
    with pytest.raises(InvalidInput, match=r"input number 300: .* the first 256 were queued") as caught:
        producer.submit_many(MODEL, [ROW] * 300 + [np.zeros(3, "f4")])
    assert len(caught.value.accepted) == depth(link) == 256  # type: ignore[attr-defined]


def test_a_full_queue_says_which_prefix_it_took(producer: Producer, publish: Publish, link: Link) -> None:
    # given
    publish(limits=Limits(max_jobs=300))
    # when
    with pytest.raises(QueueFull, match=r"at its limit of 300 jobs; try again in 1.00 s, pass wait_s") as caught:
        producer.submit_many(MODEL, [ROW] * 600)
    # then
    assert len(caught.value.accepted) == depth(link) == 300
    assert caught.value.retry_after_s == 1.0


def test_waiting_for_room_sends_only_the_rest(producer: Producer, publish: Publish, link: Link, redis_url: str) -> None:
    # given
    publish(limits=Limits(max_jobs=100))
    drain_fast(link)
    with Worker(redis_url) as worker:
        # when
        handles = producer.submit_many(MODEL, [ROW] * 350, wait_s=10)
        for handle in handles:
            handle.result(5)
    # then
    assert len(worker.runs) == len(set(worker.runs)) == 350


def test_redis_out_of_memory_is_a_full_queue(producer: Producer, link: Link) -> None:
    # given
    producer.submit(MODEL, ROW)
    link.call("CONFIG", "SET", "maxmemory", 1)
    # then
    with pytest.raises(QueueFull, match="Redis is at maxmemory"):
        producer.submit(MODEL, ROW)


def test_a_payload_over_the_limit_is_refused(producer: Producer, publish: Publish) -> None:
    publish(limits=Limits(payload_limit_bytes=100))
    with pytest.raises(PayloadTooLarge, match=r"over the limit of 100 bytes a job; send fewer rows"):
        producer.submit(MODEL, np.zeros((50, 4), "f4"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lane": "hihg"}, 'unknown lane "hihg"; did you mean "high"?'),
        ({"deadline_s": 0}, "deadline_s=0 has passed"),
        ({"deadline_s": -1}, "has passed"),
        ({"delay_s": -1}, "negative"),
        ({"delay_s": 2, "deadline_s": 1}, "make the deadline later"),
        ({"retries": 256}, "between 0 and 255"),
        ({"result_ttl_s": 0}, "between 1 and"),
        ({"context": {"f": object()}}, "cannot be sent"),
        ({"context": {"f": "x" * 70_000}}, "65 535 bytes"),
        ({"idempotency_key": ""}, "1 to 512 characters"),
    ],
)
def test_an_option_out_of_range_is_refused(producer: Producer, options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        producer.submit(MODEL, ROW, **options)


def test_options_arrive_with_the_job(producer: Producer, worker: Worker) -> None:
    # when
    producer.infer(
        MODEL, ROW, timeout=5, lane="low", retries=7, result_ttl_s=30, store=False, context={"a": 1}, deadline_s=60
    )
    # then
    (job,) = worker.jobs
    assert (job.lane, job.retries, job.result_ttl_s, job.is_stored, job.context) == (2, 7, 30, False, {"a": 1})
    assert 0 < job.deadline_ms - job.submitted_ms <= 60_000


def test_the_same_idempotency_key_is_the_same_job(
    producer: Producer, redis_url: str, link: Link, worker: Worker
) -> None:
    # given
    first = producer.submit(MODEL, ROW, idempotency_key="order-1")
    # when
    again = producer.submit(MODEL, ROW, idempotency_key="order-1")
    with Producer(redis_url) as other:
        elsewhere = other.submit(MODEL, ROW, idempotency_key="order-1")
        results = [handle.result(5).id for handle in (first, again, elsewhere)]
    # then
    assert results == [first.id] * 3
    assert worker.runs == [first.id.removeprefix(f"{MODEL}:")]
    with pytest.raises(KeyConflict, match="'order-1' was used before"):
        producer.submit(MODEL, ROW + 1, idempotency_key="order-1")


def test_duplicates_among_many_do_not_shift_the_others(producer: Producer, link: Link) -> None:
    # given
    producer.submit(MODEL, ROW, idempotency_key="b")
    # when
    handles = producer.submit_many(MODEL, [ROW] * 3, idempotency_keys=["a", "b", "c"])
    # then
    assert [handle.cancel() for handle in handles] == [True] * 3
    assert depth(link) == 0


def test_a_new_spec_is_learned_and_the_inputs_checked_again(producer: Producer, publish: Publish) -> None:
    # given
    producer.submit(MODEL, ROW)
    # when
    publish(version="2")
    producer.submit(MODEL, ROW)
    publish(version="3", takes="text", inputs=())
    # then
    with pytest.raises(InvalidInput, match="takes text"):
        producer.submit(MODEL, ROW)


def test_no_ready_slot_is_a_warning(producer: Producer, redis_url: str) -> None:
    assert "no ready slot serves model 'double'" in (producer.submit(MODEL, ROW).warning or "")
    with Worker(redis_url), Producer(redis_url) as another:
        assert another.submit(MODEL, ROW).warning is None


def test_a_closed_producer_says_so(redis_url: str) -> None:
    producer = Producer(redis_url)
    producer.close()
    with pytest.raises(PenstockError, match="is closed"):
        producer.submit(MODEL, ROW)
