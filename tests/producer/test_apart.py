"""Data that is too large to travel in its job: written before it, found by it, and never left behind when it is refused."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker import keys, spec
from broker.bodies_store import BodyStore, open_store
from broker.connection import Link
from broker.spec import Limits
from producer import AsyncProducer, InvalidInput, KeyConflict, PenstockError, Producer, QueueFull, talks
from producer.channel import Channel
from producer.tickets import Parcel
from tests.broker.apart import lying
from tests.producer.fake import MODEL, Worker, drain_fast, wait_until

LARGE = np.arange(4 * 64, dtype=np.float32).reshape(64, 4)  # 1 KB
SMALL = np.arange(4, dtype=np.float32)
Publish = Callable[..., None]


class Place:
    """One store: where it is, and what lies in it."""

    def __init__(self, location: str, link: Link) -> None:
        self.location = location
        self.link = link
        self.store: BodyStore | None = open_store(location)

    def limits(self, **changes: Any) -> Limits:
        return Limits(**({"large_bytes": 1000, "bodies": self.location} | changes))

    def names(self) -> list[str]:
        if self.store is not None:
            return sorted(lying(self.store))
        return sorted(name.decode().rpartition(":")[2] for name in self.link.call("KEYS", keys.body(MODEL, "*")))


@pytest.fixture(params=["redis", "folder", "url"])
def place(request: pytest.FixtureRequest, tmp_path: Path, link: Link) -> Place:
    return Place({"redis": "redis", "folder": f"{tmp_path}/b", "url": f"file://{tmp_path}/b"}[request.param], link)


@pytest.fixture
def outside(tmp_path: Path, link: Link) -> Place:
    return Place(f"{tmp_path}/bodies", link)


def waiting(link: Link) -> list[bytes]:
    return [fields[1] for _, fields in link.call("XRANGE", keys.lane(MODEL, "normal"), "-", "+")]


def test_large_data_stands_apart_and_its_result_is_as_ever(redis_url: str, publish: Publish, place: Place) -> None:
    # given
    publish(limits=place.limits())
    with Producer(redis_url) as producer:
        # when
        handles = producer.submit_many(MODEL, [SMALL, LARGE, SMALL, LARGE])
        # then
        blobs = waiting(place.link)
        assert [blob[0] for blob in blobs] == [1, 2, 1, 2]
        assert max(map(len, blobs)) < 200
        assert place.names() == sorted(handles[at].id.rpartition(":")[2] for at in (1, 3))
        with Worker(redis_url, store=place.store):
            results = [handle.result(10) for handle in handles]
    for result, value in zip(results, [SMALL, LARGE, SMALL, LARGE], strict=True):
        np.testing.assert_array_equal(result["y"], value * 2)
    assert int(place.link.call("HGET", keys.counters(MODEL), "bytes")) == 0
    if place.store is None:
        assert place.names() == []


def test_many_tasks_of_one_tick_send_large_and_small_together(redis_url: str, publish: Publish, place: Place) -> None:
    publish(limits=place.limits())

    async def scene() -> list[Any]:
        async with AsyncProducer(redis_url) as producer, asyncio.timeout(20):
            return await asyncio.gather(*(producer.infer(MODEL, LARGE + at, 10) for at in range(20)),
                                        *(producer.infer(MODEL, SMALL + at, 10) for at in range(20)))  # fmt: skip

    with Worker(redis_url, store=place.store) as worker:
        results = asyncio.run(scene())
    for at in range(20):
        np.testing.assert_array_equal(results[at]["y"], (LARGE + at) * 2)
        np.testing.assert_array_equal(results[20 + at]["y"], (SMALL + at) * 2)
    assert sum(job.body is not None for job in worker.jobs) == 20


def test_a_full_queue_leaves_no_body_of_what_it_refused(redis_url: str, publish: Publish, place: Place) -> None:
    publish(limits=place.limits(max_jobs=2))
    with Producer(redis_url) as producer, pytest.raises(QueueFull) as caught:
        producer.submit_many(MODEL, [LARGE] * 5)
    assert place.names() == sorted(handle.id.rpartition(":")[2] for handle in caught.value.accepted)
    assert len(place.names()) == 2


def test_a_full_queue_leaves_no_body_of_what_it_refused_an_asyncio_client(
    redis_url: str, publish: Publish, place: Place
) -> None:
    publish(limits=place.limits(max_jobs=2))

    async def scene() -> None:
        async with AsyncProducer(redis_url) as producer:
            await producer.submit_many(MODEL, [LARGE] * 5)

    with pytest.raises(QueueFull):
        asyncio.run(scene())
    assert len(place.names()) == 2


def test_waiting_for_room_queues_the_rest_with_their_bodies(redis_url: str, publish: Publish, place: Place) -> None:
    publish(limits=place.limits(max_jobs=2))
    drain_fast(place.link)
    with Worker(redis_url, store=place.store), Producer(redis_url) as producer:
        handles = producer.submit_many(MODEL, [LARGE + at for at in range(6)], wait_s=10)
        for at, handle in enumerate(handles):
            np.testing.assert_array_equal(handle.result(10)["y"], (LARGE + at) * 2)


def test_a_duplicate_by_key_leaves_one_body_and_other_content_is_refused_without_one(
    redis_url: str, publish: Publish, place: Place
) -> None:
    publish(limits=place.limits())
    with Producer(redis_url) as producer:
        first = producer.submit(MODEL, LARGE, idempotency_key="order-1")
        again = producer.submit(MODEL, LARGE, idempotency_key="order-1")
        with pytest.raises(KeyConflict):
            producer.submit(MODEL, LARGE + 1, idempotency_key="order-1")
    assert again.id == first.id
    assert place.names() == [first.id.rpartition(":")[2]]


def test_a_store_that_changed_meanwhile_gets_the_body(redis_url: str, publish: Publish, outside: Place) -> None:
    publish(limits=Limits(large_bytes=1000))
    with Producer(redis_url) as producer:
        producer.submit(MODEL, SMALL)
        publish(limits=outside.limits())
        handle = producer.submit(MODEL, LARGE)
    assert outside.names() == [handle.id.rpartition(":")[2]]
    assert Place("redis", outside.link).names() == []


def _moving(monkeypatch: pytest.MonkeyPatch, publish: Publish, to: Place) -> None:
    """The pool's store changes, and another thread of the client learns it, once, between packing and writing."""
    note = talks.note_bodies
    moves = iter([to])

    def moved(channel: Channel, parcel: Parcel) -> talks.Talk[None]:
        for place in moves:
            publish(limits=place.limits())
            channel.learn(spec.fetch(place.link, MODEL))
        return note(channel, parcel)

    monkeypatch.setattr(talks, "note_bodies", moved)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_store_that_changes_between_packing_and_writing_gets_body_and_reference(
    redis_url: str, publish: Publish, outside: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    # given
    other = Place(f"{tmp_path}/other", outside.link)
    publish(limits=outside.limits())
    _moving(monkeypatch, publish, other)

    async def scene() -> str:
        async with AsyncProducer(redis_url) as producer:
            return (await producer.submit(MODEL, LARGE)).id

    # when
    if is_async:
        job_id = asyncio.run(scene())
    else:
        with Producer(redis_url) as producer:
            job_id = producer.submit(MODEL, LARGE).id
    # then
    (blob,) = waiting(outside.link)
    assert other.store is not None
    assert other.store.token.encode() in blob
    assert (outside.names(), other.names()) == ([], [job_id.rpartition(":")[2]])


def test_a_client_that_was_told_so_sends_large_data_in_the_job(
    redis_url: str, publish: Publish, outside: Place
) -> None:
    publish(limits=outside.limits())
    with Producer(redis_url, large_apart=False) as producer, Worker(redis_url) as worker:
        np.testing.assert_array_equal(producer.infer(MODEL, LARGE, 10)["y"], LARGE * 2)
    assert (outside.names(), worker.jobs[0].body) == ([], None)
    with pytest.raises(InvalidInput, match="large_apart='no' must be True or False"):
        Producer(redis_url, large_apart="no")  # type: ignore[arg-type]


def test_nothing_stands_apart_where_the_pool_says_never(redis_url: str, publish: Publish, link: Link) -> None:
    publish(limits=Limits(large_bytes=0))
    with Producer(redis_url) as producer:
        producer.submit(MODEL, LARGE)
    assert [blob[0] for blob in waiting(link)] == [1]


def test_a_spec_of_a_version_before_asks_for_nothing_apart(redis_url: str, publish: Publish, link: Link) -> None:
    publish(limits=Limits(large_bytes=1000))
    link.call("HDEL", keys.spec(MODEL), "large_bytes", "bodies")
    with Producer(redis_url) as producer:
        producer.submit(MODEL, LARGE)
    assert [blob[0] for blob in waiting(link)] == [1]


def test_a_folder_that_is_not_for_this_client_is_one_line_and_queues_nothing(
    redis_url: str, publish: Publish, link: Link, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    publish(limits=Limits(large_bytes=1000, bodies=f"{tmp_path}/file/bodies"))
    with Producer(redis_url) as producer, pytest.raises(PenstockError, match="large_apart=False sends") as caught:
        producer.submit_many(MODEL, [SMALL, LARGE])
    assert "\n" not in str(caught.value)
    assert waiting(link) == []


def test_a_producer_killed_between_body_and_job_leaves_a_body_and_no_job(
    redis_url: str, publish: Publish, outside: Place
) -> None:
    # given
    publish(limits=outside.limits())
    dies = (
        "import os, sys, numpy, producer.talks as talks; from producer import Producer\n"
        "talks.submit = lambda *args, **options: os.kill(os.getpid(), 9)\n"
        f"Producer(sys.argv[1]).submit({MODEL!r}, numpy.ones((64, 4), 'float32'))"
    )
    # when
    ended = subprocess.run([sys.executable, "-c", dies, redis_url], timeout=30, check=False, cwd=os.getcwd())
    # then: a slot's body remover finds it, see workers/test_bodies.py
    assert ended.returncode == -signal.SIGKILL
    assert len(outside.names()) == 1
    assert wait_until(lambda: waiting(outside.link) == [])


@pytest.mark.parametrize("is_list", [False, True])
def test_inputs_that_are_made_in_one_buffer_are_each_sent_as_they_were(
    redis_url: str, publish: Publish, place: Place, is_list: bool
) -> None:
    # given: a generator that fills the same array for each job
    publish(limits=place.limits())
    buffer = np.empty_like(LARGE)

    def fill() -> Iterator[np.ndarray[Any, Any]]:
        for at in range(4):
            buffer[:] = LARGE + at
            yield buffer if not is_list else buffer.copy()

    # when
    with Worker(redis_url, store=place.store), Producer(redis_url) as producer:
        handles = producer.submit_many(MODEL, list(fill()) if is_list else fill())
        # then
        for at, handle in enumerate(handles):
            np.testing.assert_array_equal(handle.result(10)["y"], (LARGE + at) * 2)
