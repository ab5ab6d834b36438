"""`infer` of the asyncio client wakes its task once where all goes well: here is all that may go otherwise."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from broker import keys
from broker.connection import Link
from broker.spec import Limits
from producer import AsyncProducer, InvalidInput, QueueFull, ResultTimeout, SubmitUnknown
from producer.tickets import Parcel
from tests.producer.fake import MODEL, Worker, drain_fast

ROW = np.arange(4, dtype=np.float32)
Publish = Callable[..., None]
Scene = Callable[[AsyncProducer], Coroutine[Any, Any, Any]]
Run = Callable[[Scene], Any]


@pytest.fixture
def run(redis_url: str, publish: Publish) -> Run:
    """Runs a coroutine function with an AsyncProducer that knows the model."""

    def run(scene: Scene) -> Any:
        async def play() -> Any:
            async with AsyncProducer(redis_url, submit_timeout_s=1.0) as producer, asyncio.timeout(20):
                await producer._place(MODEL)
                return await scene(producer)

        return asyncio.run(play())

    return run


def expected(producer: AsyncProducer) -> int:
    """Jobs whose outcome the client still waits for."""
    return len(producer._models[MODEL].mailbox)


def bells(producer: AsyncProducer) -> int:
    return len(producer._models[MODEL].reader._bells)


async def entries(link: Link, count: int) -> None:
    while link.call("XLEN", keys.lane(MODEL, "normal")) < count:
        await asyncio.sleep(0.01)


def test_an_outcome_may_come_much_later_than_the_bell(
    run: Run, redis_url: str, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.aline.RINGS_AFTER_S", 0.05)

    async def scene(producer: AsyncProducer) -> None:
        tasks = [asyncio.create_task(producer.infer(MODEL, ROW + at)) for at in range(8)]
        await entries(link, 8)
        await asyncio.sleep(0.3)
        assert bells(producer) == 0
        with Worker(redis_url):
            for at, result in enumerate(await asyncio.gather(*tasks)):
                np.testing.assert_array_equal(result["y"], 2 * (ROW + at))
        assert expected(producer) == 0

    run(scene)


@pytest.mark.parametrize("timeout", [0.2, 1.3])
def test_a_timeout_is_told_as_it_was_given(run: Run, timeout: float) -> None:
    async def scene(producer: AsyncProducer) -> None:
        began = asyncio.get_running_loop().time()
        with pytest.raises(ResultTimeout, match=f"no result after {timeout} s"):
            await producer.infer(MODEL, ROW, timeout=timeout)
        assert asyncio.get_running_loop().time() - began >= timeout - 0.01

    run(scene)


def test_a_full_queue_is_told_or_waited_for(run: Run, publish: Publish, link: Link, redis_url: str) -> None:
    publish(limits=Limits(max_jobs=4))
    drain_fast(link)

    async def scene(producer: AsyncProducer) -> None:
        first = [asyncio.create_task(producer.infer(MODEL, ROW)) for _ in range(4)]
        await entries(link, 4)
        with pytest.raises(QueueFull):
            await producer.infer(MODEL, ROW)
        assert (expected(producer), bells(producer)) == (4, 4)
        last = asyncio.create_task(producer.infer(MODEL, ROW, wait_s=10))
        await asyncio.sleep(0.05)
        with Worker(redis_url):
            assert len(await asyncio.gather(*first, last)) == 5
        assert (expected(producer), bells(producer)) == (0, 0)

    run(scene)


def test_of_a_chunk_only_those_the_queue_has_room_for_are_taken(
    run: Run, publish: Publish, link: Link, redis_url: str
) -> None:
    publish(limits=Limits(max_jobs=10))
    drain_fast(link)

    async def scene(producer: AsyncProducer) -> list[str]:
        tasks = [asyncio.create_task(producer.infer(MODEL, ROW)) for _ in range(30)]
        await entries(link, 10)
        await asyncio.sleep(0.05)
        assert (expected(producer), bells(producer)) == (10, 10)
        with Worker(redis_url):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        return [type(one).__name__ for one in results]

    assert run(scene) == ["Result"] * 10 + ["QueueFull"] * 20


def test_a_new_spec_is_learned_and_what_no_longer_fits_is_told(run: Run, publish: Publish, worker: Worker) -> None:
    async def scene(producer: AsyncProducer) -> None:
        publish(version="2")
        np.testing.assert_array_equal((await producer.infer(MODEL, ROW))["y"], ROW * 2)
        publish(version="3", takes="text", inputs=())
        with pytest.raises(InvalidInput, match="takes text"):
            await producer.infer(MODEL, ROW)
        assert (expected(producer), bells(producer)) == (0, 0)

    run(scene)


def test_a_task_cancelled_before_the_chunk_was_sent_queues_nothing(run: Run, link: Link) -> None:
    async def scene(producer: AsyncProducer) -> None:
        task = asyncio.create_task(producer.infer(MODEL, ROW))
        place = producer._models[MODEL]
        while not place._outbox:
            await asyncio.sleep(0)
            if place.flusher is not None:
                break
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        kept = asyncio.create_task(producer.infer(MODEL, ROW + 1))
        await entries(link, 1)
        await asyncio.sleep(0.05)
        assert link.call("XLEN", keys.lane(MODEL, "normal")) == 1
        assert (expected(producer), bells(producer)) == (1, 1)
        kept.cancel()

    run(scene)


def test_a_task_cancelled_while_it_waits_leaves_nothing_behind(run: Run, link: Link) -> None:
    async def scene(producer: AsyncProducer) -> None:
        task = asyncio.create_task(producer.infer(MODEL, ROW))
        await entries(link, 1)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (expected(producer), bells(producer)) == (0, 0)

    run(scene)


def test_an_outcome_quicker_than_the_answer_is_taken(run: Run, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(producer: AsyncProducer) -> None:
        place = producer._models[MODEL]
        exchange, was_late = producer._line._exchange, []

        async def late(*args: Any) -> Any:
            replies = await exchange(*args)
            while expected(producer):
                await asyncio.sleep(0.01)
            was_late.append(True)
            return replies

        monkeypatch.setattr(producer._line, "_exchange", late)
        np.testing.assert_array_equal((await producer.infer(MODEL, ROW))["y"], ROW * 2)
        while place.flusher is not None:
            await asyncio.sleep(0.01)
        assert was_late

    run(scene)


def test_an_answer_slower_than_the_bell_is_waited_for(
    run: Run, redis_url: str, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.aline.RINGS_AFTER_S", 0.05)

    async def scene(producer: AsyncProducer) -> None:
        exchange, may_go = producer._line._exchange, asyncio.Event()

        async def slow(*args: Any) -> Any:
            await may_go.wait()
            return await exchange(*args)

        monkeypatch.setattr(producer._line, "_exchange", slow)
        task = asyncio.create_task(producer.infer(MODEL, ROW))
        await asyncio.sleep(0.2)
        assert not task.done()
        assert link.call("XLEN", keys.lane(MODEL, "normal")) == 0
        may_go.set()
        with Worker(redis_url):
            np.testing.assert_array_equal((await task)["y"], ROW * 2)

    run(scene)


def test_one_error_of_many_names_the_job_of_each(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A submit whose answer was lost may be queued: each task is told its own job."""
    ids: list[str] = []

    async def scene(producer: AsyncProducer) -> list[Any]:
        pack = Parcel.pack

        def noting(self: Parcel, *args: Any) -> None:
            pack(self, *args)
            ids.append(self.tickets[0].id)

        monkeypatch.setattr(Parcel, "pack", noting)

        async def lost(commands: Any) -> Any:
            raise ConnectionResetError("lost")

        monkeypatch.setattr(producer._line._link, "call_all", lost)
        got = await asyncio.gather(*(producer.infer(MODEL, ROW) for _ in range(3)), return_exceptions=True)
        assert (expected(producer), bells(producer)) == (0, 0)
        return got

    errors = run(scene)
    assert all(isinstance(error, SubmitUnknown) for error in errors)
    assert [error.job_id for error in errors] == ids
