"""Options and arguments of the wrong kind: one clear line, before anything is queued."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from broker import keys
from broker.connection import Link
from producer import AsyncProducer, InvalidInput, Producer
from tests.producer.fake import MODEL

ROW = np.arange(4, dtype=np.float32)


@pytest.fixture(autouse=True)
def nothing_is_queued(publish: Callable[..., None], link: Link) -> Any:
    yield
    assert link.call("XLEN", keys.lane(MODEL, "normal")) == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retries": 1.5}, "retries=1.5 must be a whole number between 0 and 255"),
        ({"retries": "1"}, "retries='1' must be a whole number"),
        ({"retries": True}, "retries=True must be a whole number"),
        ({"deadline_s": "3"}, "deadline_s='3' is no number of seconds"),
        ({"deadline_s": float("nan")}, "deadline_s=nan has passed"),
        ({"delay_s": b"1"}, "delay_s=b'1' is no number of seconds"),
        ({"result_ttl_s": None}, "result_ttl_s=None is no number of seconds"),
        ({"result_ttl_s": 0.5}, "between 1 and"),
        ({"store": "no"}, "store='no' must be True or False"),
        ({"context": [1]}, "context is a list, and must be a dict"),
        ({"context": []}, "context is a list, and must be a dict"),
        ({"lane": ["high"]}, "unknown lane"),
        ({"wait_s": "1"}, "wait_s='1' is no number of seconds"),
        ({"wait_s": float("nan")}, "wait_s=nan is no number of seconds"),
        ({"idempotency_key": 3}, "a str of 1 to 512 characters"),
        ({"idempotency_key": b"k"}, "a str of 1 to 512 characters"),
        ({"idempotency_key": "\ud800"}, "not valid Unicode"),
    ],
)
def test_an_option_of_the_wrong_kind_is_refused(producer: Producer, options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput, match=text) as caught:
        producer.submit(MODEL, ROW, **options)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_numbers(producer: Producer) -> None:
    assert producer.submit(MODEL, ROW, retries=np.int64(2), deadline_s=np.float32(9), delay_s=np.int32(1)).cancel()


@pytest.mark.parametrize(
    ("call", "option", "nearest"),
    [
        ("submit", "deadline", "deadline_s"),
        ("submit", "wait", "wait_s"),
        ("infer", "timout", "timeout"),
        ("submit_many", "idempotency_key", "idempotency_keys"),
        ("map", "windw", "window"),
    ],
)
def test_a_misspelt_option_names_the_method_and_the_nearest(
    producer: Producer, call: str, option: str, nearest: str
) -> None:
    with pytest.raises(TypeError) as caught:
        getattr(producer, call)(MODEL, [ROW], **{option: 1})
    assert str(caught.value) == f'{call}(): unknown option "{option}"; did you mean "{nearest}"?'


@pytest.mark.parametrize("inputs", ["abc", b"abc", {"x": ROW}, 5, None])
@pytest.mark.parametrize("call", ["submit_many", "map"])
def test_one_input_where_many_are_wanted_is_refused(producer: Producer, call: str, inputs: Any) -> None:
    with pytest.raises(InvalidInput, match=f"{call} takes an iterable of inputs, and one .* put it in a list, or use"):
        getattr(producer, call)(MODEL, inputs)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["a"], "1 idempotency_keys for 2 inputs; give one for each input"),
        (["a", "b", "c"], "3 idempotency_keys for 2 inputs"),
        (iter(["a"]), "input number 1: the idempotency_keys ended before the inputs; .* nothing was queued"),
        (["a", None], "input number 1: an idempotency key is a str"),
        ("ab", "is not a list of keys"),
        (5, "is not a list of keys"),
    ],
)
def test_idempotency_keys_that_are_not_one_for_each_input_are_refused(
    producer: Producer, given: Any, text: str
) -> None:
    with pytest.raises(InvalidInput, match=text):
        producer.submit_many(MODEL, [ROW, ROW], idempotency_keys=given)


@pytest.mark.parametrize("model", [ROW, 5, None, b"double", "\ud800"])
def test_a_model_that_is_no_name_is_refused(producer: Producer, model: Any) -> None:
    with pytest.raises(InvalidInput, match="the model is named first, by a str"):
        producer.submit(model, ROW)


def test_a_wrong_timeout_is_refused_before_the_job_is_queued(producer: Producer) -> None:
    with pytest.raises(InvalidInput, match="timeout=nan"):
        producer.infer(MODEL, ROW, timeout=float("nan"))
    with pytest.raises(InvalidInput, match="timeout=nan"):
        producer.map(MODEL, [ROW], timeout=float("nan"))
    with pytest.raises(InvalidInput, match=r"window=1.5 must be a whole number"):
        list(producer.map(MODEL, [ROW], window=1.5))  # type: ignore[arg-type]


def test_the_asyncio_client_refuses_the_same(redis_url: str) -> None:
    async def scene() -> None:
        async with AsyncProducer(redis_url) as producer:
            with pytest.raises(TypeError, match=r'infer\(\): unknown option "deadline"; did you mean "deadline_s"'):
                await producer.infer(MODEL, ROW, deadline=3)
            with pytest.raises(InvalidInput, match="timeout=nan"):
                await producer.infer(MODEL, ROW, timeout=float("nan"))
            with pytest.raises(InvalidInput, match="submit_many takes an iterable of inputs"):
                await producer.submit_many(MODEL, "abc")
            with pytest.raises(InvalidInput, match="ended before the inputs"):
                await producer.submit_many(MODEL, [ROW, ROW], idempotency_keys=iter(["a"]))
            with pytest.raises(InvalidInput, match="wait_s='1'"):
                await producer.submit(MODEL, ROW, wait_s="1")  # type: ignore[arg-type]

    asyncio.run(scene())
