"""The threads that read bodies: slow is no fault, a hanging store is, and nothing that a store does ends a thread."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping

import msgspec
import pytest

from broker.bodies import refer
from broker.errors import StoreError
from broker.messages import Job
from tests.wait import wait_until
from tests.workers.test_batcher import job
from workers.readers import PATIENCE_S, THREADS, Found, Readers


class Shelf:
    """A store that reads as it is told to."""

    token = "shelf"

    def __init__(self, read: Callable[[str], bytes | None]) -> None:
        self.read = read

    def write(self, bodies: Mapping[str, bytes]) -> None: ...

    def remove(self, names: object) -> None: ...

    def recycle(self, names: object) -> None: ...

    def tidy(self) -> None: ...


class Scene:
    """Readers whose clock and store the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.gates: dict[str, threading.Event] = {}
        self.names = (f"abc-{number}" for number in itertools.count())
        self.asked: list[str] = []
        self.error: BaseException | None = None
        self.dropped: list[Job] = []
        self.readers = Readers(
            Shelf(self._read), is_wanted=lambda job: job not in self.dropped, wake=lambda: None, clock=lambda: self.now
        )

    def _read(self, name: str) -> bytes:
        self.asked.append(name)
        assert self.gates[name].wait(10)
        if self.error is not None:
            raise self.error
        return b"body"

    def order(self, count: int) -> list[Job]:
        references = [refer("shelf", next(self.names), b"body") for _ in range(count)]
        jobs = [msgspec.structs.replace(job(), body=reference) for reference in references]
        for reference, one in zip(references, jobs, strict=True):
            self.gates[reference.name] = threading.Event()
            self.readers.order(one)
        return jobs

    def are_reading(self, count: int) -> None:
        wait_until(lambda: sum(one is not None for one in self.readers._under_way) == count, f"{count} are being read")

    def let_go(self) -> None:
        """What is being read now comes."""
        for name in list(self.asked):
            self.gates[name].set()

    def take(self, count: int) -> list[tuple[Job, Found]]:
        """What has come, each forgotten as its owner does."""
        wait_until(lambda: self.readers._read.qsize() >= count, f"{count} bodies have come")
        taken = list(self.readers.take())
        for one, _ in taken:
            self.readers.forget(one)
        return taken


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.readers.close()
    for gate in scene.gates.values():
        gate.set()


def test_what_waits_behind_slow_reads_is_given_up_by_none(scene: Scene) -> None:
    # given
    scene.order(3 * THREADS)
    for left in (3, 2, 1):
        scene.are_reading(THREADS)
        # when: each round takes nearly all of the patience
        scene.now += PATIENCE_S - 1
        assert scene.readers.late() == []
        scene.let_go()
        # then
        assert {found for _, found in scene.take(THREADS)} == {b"body"}
        assert len(scene.readers._ordered) == (left - 1) * THREADS
    assert scene.readers.late() == []


def test_a_body_that_is_read_for_too_long_is_given_up_and_others_go_on(scene: Scene) -> None:
    hung, *_ = scene.order(1)
    scene.are_reading(1)
    scene.now += PATIENCE_S - 1
    fresh, *_ = scene.order(1)
    scene.are_reading(2)
    scene.now += 1
    assert scene.readers.late() == [hung]
    assert fresh is not hung


def test_where_every_thread_hangs_those_behind_are_given_up_in_their_time(scene: Scene) -> None:
    # given
    jobs = scene.order(THREADS + 1)
    scene.are_reading(THREADS)
    scene.now += PATIENCE_S
    assert len(scene.readers.late()) == len(jobs)
    for one in jobs:
        scene.readers.forget(one)
    # when
    (later,) = scene.order(1)
    # then
    assert scene.readers.late() == []
    scene.now += PATIENCE_S
    assert scene.readers.late() == [later]


def test_an_order_that_nobody_waits_for_any_more_is_not_read(scene: Scene) -> None:
    jobs = scene.order(THREADS + 2)
    scene.are_reading(THREADS)
    scene.dropped.append(jobs[THREADS])
    for gate in scene.gates.values():
        gate.set()
    scene.take(THREADS + 1)
    assert sorted(scene.asked) == [f"abc-{at}" for at in range(THREADS + 2) if at != THREADS]


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), KeyError("x"), StoreError("away")])
def test_whatever_a_store_raises_is_its_jobs_affair_and_the_thread_goes_on(scene: Scene, error: Exception) -> None:
    # given
    scene.error = error
    scene.order(1)
    scene.are_reading(1)
    scene.let_go()
    ((_, found),) = scene.take(1)
    assert isinstance(found, StoreError)
    assert type(error).__name__ in str(found) or found is error
    wait_until(lambda: scene.readers._under_way == [None], "the thread is free")
    # when
    scene.error = None
    scene.order(1)
    scene.are_reading(1)
    scene.let_go()
    # then
    assert scene.take(1)[0][1] == b"body"
    assert len(scene.readers._under_way) == 1


def test_close_returns_when_nobody_is_woken_any_more() -> None:
    # given: a thread that brought a body and is about to ring
    rings, may_ring, is_over = threading.Event(), threading.Event(), threading.Event()

    def wake() -> None:
        rings.set()
        may_ring.wait(10)
        assert not is_over.is_set(), "the doorbell is gone by then"

    readers = Readers(Shelf(lambda name: b"body"), is_wanted=lambda job: True, wake=wake)
    readers.order(msgspec.structs.replace(job(), body=refer("shelf", "abc-1", b"body")))
    assert rings.wait(10)

    def close() -> None:
        readers.close()
        is_over.set()

    closing = threading.Thread(target=close)
    # when
    closing.start()
    # then
    assert not is_over.wait(0.1)
    may_ring.set()
    closing.join(10)
    assert is_over.is_set()
