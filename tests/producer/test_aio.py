"""The asyncio client: the sync one's behaviour, awaited, and what only it does, coalescing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from broker import keys
from broker.connection import Link
from broker.spec import Limits
from producer import (
    AsyncProducer,
    InvalidInput,
    JobCancelled,
    KeyConflict,
    Producer,
    QueueFull,
    RedisUnavailable,
    ResultExpired,
    ResultTimeout,
    UnknownModel,
)
from tests.producer.fake import MODEL, Worker, drain_fast

ROW = np.arange(4, dtype=np.float32)
Publish = Callable[..., None]
Run = Callable[[Callable[[AsyncProducer], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture
def run(redis_url: str, publish: Publish) -> Run:
    """Runs a coroutine function with an AsyncProducer of its own."""

    def run(scene: Callable[[AsyncProducer], Coroutine[Any, Any, Any]]) -> Any:
        async def play() -> Any:
            async with AsyncProducer(redis_url) as producer, asyncio.timeout(20):
                return await scene(producer)

        return asyncio.run(play())

    return run


def evals(link: Link) -> int:
    stats = link.call("INFO", "commandstats").decode()
    return int(stats.partition("cmdstat_evalsha:calls=")[2].partition(",")[0] or 0)


def test_sixty_four_tasks_travel_in_one_chunk(run: Run, link: Link) -> None:
    async def scene(producer: AsyncProducer) -> list[Any]:
        await producer.submit(MODEL, ROW)
        link.call("CONFIG", "RESETSTAT")
        return await asyncio.gather(*(producer.submit(MODEL, ROW) for _ in range(64)))

    # when
    handles = run(scene)
    # then
    entries = [entry for entry, _ in link.call("XRANGE", keys.lane(MODEL, "normal"), "-", "+")]
    assert [handle._place[1].encode() for handle in handles] == entries[1:]
    assert evals(link) == 1


def test_each_of_many_tasks_gets_its_own_result(run: Run, worker: Worker) -> None:
    async def infer(producer: AsyncProducer, number: int) -> None:
        for at in range(20):
            row = np.full(4, 100 * number + at, np.float32)
            np.testing.assert_array_equal((await producer.infer(MODEL, row, timeout=10))["y"], row * 2)

    async def scene(producer: AsyncProducer) -> None:
        await asyncio.gather(*(infer(producer, number) for number in range(64)))

    run(scene)
    assert len(worker.runs) == len(set(worker.runs)) == 64 * 20


def test_one_bad_job_does_not_harm_those_it_travels_with(run: Run) -> None:
    async def scene(producer: AsyncProducer) -> list[Any]:
        await producer.submit(MODEL, ROW, idempotency_key="k")
        return await asyncio.gather(
            producer.submit(MODEL, ROW),
            producer.submit(MODEL, ROW + 1, idempotency_key="k"),
            producer.submit(MODEL, np.zeros(3, "f4")),
            producer.submit(MODEL, ROW),
            producer.submit(MODEL, ROW, idempotency_key="k"),
            return_exceptions=True,
        )

    kinds = [type(one).__name__ for one in run(scene)]
    assert kinds == ["AsyncHandle", KeyConflict.__name__, InvalidInput.__name__, "AsyncHandle", "AsyncHandle"]


def test_a_full_queue_says_which_prefix_it_took_or_is_waited_for(
    run: Run, publish: Publish, link: Link, redis_url: str
) -> None:
    publish(limits=Limits(max_jobs=100))
    drain_fast(link)

    async def scene(producer: AsyncProducer) -> None:
        with pytest.raises(QueueFull) as caught:
            await producer.submit_many(MODEL, [ROW] * 300)
        assert len(caught.value.accepted) == 100
        with Worker(redis_url):
            handles = await producer.submit_many(MODEL, [ROW] * 300, wait_s=10)
            for handle in [*caught.value.accepted, *handles]:
                await handle.result(5)

    run(scene)


def test_cancel_status_timeout_and_result_by_id_work_as_in_the_sync_client(
    run: Run, redis_url: str, producer: Producer
) -> None:
    async def scene(aio: AsyncProducer) -> None:
        handle = await aio.submit(MODEL, ROW)
        assert (await handle.status(), await handle.cancel(), await handle.cancel()) == ("waiting", True, False)
        with pytest.raises(JobCancelled):
            await handle.result(5)
        assert await handle.status() == "cancelled"
        other = producer.submit(MODEL, ROW)
        with pytest.raises(ResultTimeout, match="depth 1"):
            await aio.result(other.id, timeout=0.05)
        with Worker(redis_url):
            np.testing.assert_array_equal((await aio.result(other.id, timeout=20))["y"], ROW * 2)
        with pytest.raises(ResultExpired):
            await aio.result(f"{MODEL}:aaaaaaaaaaaa-1", timeout=20)

    run(scene)


@pytest.mark.parametrize("ordered", [True, False])
def test_map_gives_every_result(run: Run, worker: Worker, ordered: bool) -> None:
    async def scene(producer: AsyncProducer) -> list[int]:
        inputs = (np.full(4, number, np.float32) for number in range(500))
        got = []
        async for result in producer.map(MODEL, inputs, window=64, ordered=ordered, timeout=20):
            assert result["y"][0] == 2 * result.index
            got.append(result.index)
        return got

    got = run(scene)
    assert (got if ordered else sorted(got)) == list(range(500))


def test_unknown_models_and_a_new_spec_are_told(run: Run, publish: Publish) -> None:
    async def scene(producer: AsyncProducer) -> None:
        with pytest.raises(UnknownModel):
            await producer.submit("nobody", ROW)
        await producer.submit(MODEL, ROW)
        publish(version="2")
        await producer.submit(MODEL, ROW)
        publish(version="3", takes="text", inputs=())
        with pytest.raises(InvalidInput, match="takes text"):
            await producer.submit(MODEL, ROW)

    run(scene)


def test_redis_down_is_told() -> None:
    async def play() -> None:
        async with AsyncProducer("unix:///nowhere/redis.sock", submit_timeout_s=0.1) as producer:
            await producer.submit(MODEL, ROW)

    with pytest.raises(RedisUnavailable, match="no Redis at"):
        asyncio.run(play())


def test_a_cancelled_task_leaves_the_others_alone(run: Run, worker: Worker) -> None:
    async def scene(producer: AsyncProducer) -> None:
        tasks = [asyncio.create_task(producer.infer(MODEL, ROW, timeout=20)) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one).__name__ for one in results] == ["CancelledError", "Result"] * 10
        await producer.infer(MODEL, ROW, timeout=20)

    run(scene)


def test_lost_connections_are_made_anew(run: Run, worker: Worker, link: Link) -> None:
    async def scene(producer: AsyncProducer) -> None:
        await producer.infer(MODEL, ROW, timeout=20)
        for line in link.call("CLIENT", "LIST").decode().splitlines():
            if " name=worker " not in line:
                link.call_all([("CLIENT", "KILL", "ID", line.split()[0].removeprefix("id="), "SKIPME", "yes")])
        await asyncio.gather(*(producer.infer(MODEL, ROW, timeout=20) for _ in range(20)))

    run(scene)
    assert len(worker.runs) == len(set(worker.runs)) == 21
