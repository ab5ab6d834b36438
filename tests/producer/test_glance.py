"""A lone `infer` listens for its outcome before it reads the answer to its submit."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from broker.connection import Link
from broker.errors import QueueFull
from broker.spec import Limits
from producer import Producer, reader, sender
from tests.wait import wait_until
from tests.workers.fakes import MODEL, RunningSlot

ROW = np.ones(4, "float32")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A glance long enough for a busy machine."""
    monkeypatch.setattr(sender, "GLANCE_S", 5.0)


def test_an_outcome_that_is_quicker_than_the_submits_answer_is_taken(redis_url: str, link: Link, patient: None) -> None:
    with RunningSlot(redis_url), Producer(redis_url) as producer:
        first = producer.infer(MODEL, ROW, 5)  # connects the reader, so that the next ones may glance
        reader = producer._models[MODEL].reader
        for value in range(2, 30):
            result = producer.infer(MODEL, ROW * value, 5)
            assert np.array_equal(result["y"], ROW * value * 2)
            assert reader._link.expected == 0
        assert first.id != result.id


def test_a_glance_that_saw_nothing_leaves_its_read_to_the_wait(
    redis_url: str, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "GLANCE_S", 0.0)
    with RunningSlot(redis_url), Producer(redis_url) as producer:
        for value in range(1, 30):
            assert np.array_equal(producer.infer(MODEL, ROW * value, 5)["y"], ROW * value * 2)


def test_a_refused_submit_is_told_though_a_read_is_out_and_the_next_job_gets_its_outcome(
    redis_url: str, link: Link
) -> None:
    slot = RunningSlot(redis_url, limits=Limits(max_jobs=1))
    with Producer(redis_url) as producer:
        # given a queue that is full, and a client that has a connection to listen on
        with Producer(redis_url) as other:
            with slot:
                producer.infer(MODEL, ROW, 5)
            full = other.submit(MODEL, ROW)
        # when
        with pytest.raises(QueueFull):
            producer.infer(MODEL, ROW, 5)
        assert producer._models[MODEL].reader._link.expected == 1
        producer._models[MODEL].reader.drain()
        # then
        with RunningSlot(redis_url, limits=Limits(max_jobs=1)):
            assert producer.result(full.id, 5)["y"][0] == 2.0
            assert np.array_equal(producer.infer(MODEL, ROW * 3, 5)["y"], ROW * 6)


def test_a_wait_that_is_too_short_leaves_the_read_for_the_next_one(redis_url: str, link: Link) -> None:
    slot = RunningSlot(redis_url)
    with Producer(redis_url) as producer:
        with slot:
            producer.infer(MODEL, ROW, 5)
        with pytest.raises(TimeoutError):
            producer.infer(MODEL, ROW * 5, 0.02)
        with RunningSlot(redis_url):
            assert np.array_equal(producer.infer(MODEL, ROW * 7, 5)["y"], ROW * 14)


def test_threads_that_infer_at_once_get_each_their_own(redis_url: str, link: Link, patient: None) -> None:
    started = threading.Barrier(8)

    def ask(number: int) -> bool:
        started.wait(10)
        rows = [ROW * (100 * number + step) for step in range(20)]
        return all(np.array_equal(producer.infer(MODEL, row, 10)["y"], row * 2) for row in rows)

    with RunningSlot(redis_url), Producer(redis_url) as producer, ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(8)))


def test_a_connection_lost_during_a_glance_is_made_again(redis_url: str, link: Link, patient: None) -> None:
    with RunningSlot(redis_url), Producer(redis_url) as producer:
        producer.infer(MODEL, ROW, 5)
        for connection in link.call("CLIENT", "LIST").decode().splitlines():
            if "cmd=blpop" in connection or "cmd=lpop" in connection:
                link.call("CLIENT", "KILL", "ID", connection.split()[0].removeprefix("id="))
        assert np.array_equal(producer.infer(MODEL, ROW * 4, 5)["y"], ROW * 8)


def test_a_read_that_is_never_answered_is_given_up(redis_url: str, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a host that vanished: the connection is there, and says nothing any more
    monkeypatch.setattr(reader, "SLICE_S", 0.1)
    monkeypatch.setattr(reader, "READ_TIMEOUT_S", 0.1)
    with RunningSlot(redis_url), Producer(redis_url) as producer:
        producer.infer(MODEL, ROW, 5)
        dead = producer._models[MODEL].reader._link
        silent = socket.socketpair()
        dead._socket, live = silent[0], dead._socket
        dead.send(("BLPOP", "nothing", 1))
        try:
            assert np.array_equal(producer.infer(MODEL, ROW * 4, 5)["y"], ROW * 8)
            assert dead._socket not in (*silent, None)
        finally:
            for one in (*silent, live):
                one.close()


def test_no_time_left_still_means_one_look(redis_url: str, link: Link) -> None:
    with RunningSlot(redis_url), Producer(redis_url) as producer:
        producer.infer(MODEL, ROW, 5)
        place = producer._models[MODEL]
        handle = producer.submit(MODEL, ROW * 3)
        wait_until(lambda: link.call("LLEN", place.intake.reply_key) == 1, "the outcome lies in the reply list")
        place.reader._link.send(("BLPOP", "penstock:{t}:nothing", 0.01))  # as a glance that heard nothing
        wait_until(lambda: place.reader._link.is_readable(0.5), "it is answered with nothing")
        assert np.array_equal(handle.result(0)["y"], ROW * 6)
