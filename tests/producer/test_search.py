"""A job asked for by its id alone, by a process that did not submit it: found in a queue of any size, in bounded steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from broker import keys
from broker.connection import Link
from broker.ends import Ended
from broker.errors import ResultTimeout
from broker.queue import Queue
from producer import AsyncProducer, Producer, awaiter, waiter
from tests.broker.actors import done
from tests.producer.fake import MODEL

ROW = np.zeros(4, np.float32)


@pytest.fixture
def flooded(link: Link, publish: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of jobs that wait, so that the last is several pages away."""
    monkeypatch.setattr("broker.intake.FIND_ENTRIES", 64)
    with Producer(link.url) as submitter:
        return [handle.id for handle in submitter.submit_many(MODEL, [ROW] * 500, lane="low")]


def test_another_process_finds_and_cancels_a_job_far_back_in_the_queue(
    flooded: list[str], link: Link, redis_url: str
) -> None:
    with Producer(redis_url) as producer:
        handle = producer.handle(flooded[-1])
        assert handle.status() == "waiting"
        assert producer.handle(flooded[-2]).cancel()
        assert producer.handle(flooded[-2]).status() == "cancelled"
        assert handle.cancel()
        assert not handle.cancel()
    assert link.call("XLEN", keys.lane(MODEL, "low")) == 498


def test_the_asyncio_client_does_too(flooded: list[str], redis_url: str) -> None:
    async def ask() -> tuple[Any, ...]:
        async with AsyncProducer(redis_url) as producer:
            handle = producer.handle(flooded[-1])
            return await handle.status(), await handle.cancel(), await handle.status(), await handle.cancel()

    assert asyncio.run(ask()) == ("waiting", True, "cancelled", False)


def test_an_id_that_is_nowhere_is_unknown_after_the_whole_queue_was_searched(
    flooded: list[str], redis_url: str
) -> None:
    with Producer(redis_url) as producer:
        handle = producer.handle(f"{MODEL}:nobody-1")
        assert handle.status() == "unknown"
        assert not handle.cancel()


def test_a_search_out_of_time_says_so_and_goes_on_where_it_stopped(
    flooded: list[str], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: each look has time for one page, and there are eight
    monkeypatch.setattr(waiter, "SEARCH_S", 0.0)
    with Producer(redis_url) as producer:
        handle = producer.handle(flooded[-1])
        # then
        with pytest.raises(ResultTimeout, match=r"not found yet.*nothing was changed: ask again"):
            handle.cancel()
        looks = 1
        while handle.status() == "unknown":
            looks += 1
            assert looks < 12
        assert looks > 4
        assert handle.cancel()


def test_the_asyncio_search_out_of_time_says_so_too(
    flooded: list[str], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaiter, "SEARCH_S", 0.0)

    async def ask() -> str:
        async with AsyncProducer(redis_url) as producer:
            handle = producer.handle(flooded[-1])
            with pytest.raises(ResultTimeout, match="not found yet"):
                await handle.cancel()
            return await handle.status()

    assert asyncio.run(ask()) == "unknown"


def test_waiting_for_a_job_that_is_not_found_yet_gets_its_result(
    flooded: list[str], link: Link, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setattr(waiter, "SEARCH_S", 0.0)
    with Producer(redis_url) as producer:
        handle = producer.handle(flooded[0])
        with pytest.raises(ResultTimeout, match="has no result"):
            handle.result(0)
        # when: it is done, and its client is told, because it watches
        queue = Queue(MODEL, "slot")
        claimed = queue.read_claim(link.call(*queue.claim(1)))
        link.call(*queue.settle([Ended(claimed.jobs[0], done(claimed.jobs[0]))]))
        # then
        assert handle.result(5).value == b"ok"


def sent_by(link: Link) -> int:
    """Bytes this server has sent to all its clients."""
    return int(link.call("INFO", "stats").partition(b"total_net_output_bytes:")[2].split()[0])


def test_a_search_carries_no_bodies_to_the_client(link: Link, redis_url: str, publish: Callable[..., None]) -> None:
    # given
    with Producer(redis_url) as submitter:
        handles = submitter.submit_many(MODEL, [ROW] * 10, context={"pad": "x" * 60_000})
    before = sent_by(link)
    # when
    with Producer(redis_url) as producer:
        assert producer.handle(handles[-1].id).status() == "waiting"
    # then
    assert sent_by(link) - before < 60_000
