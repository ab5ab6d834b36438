"""Redis lost, forgetful or never there: each job is run once, or its caller is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from broker import keys
from broker.connection import Link
from producer import Producer, RedisUnavailable, SubmitUnknown
from tests.producer.fake import MODEL, Worker

ROW = np.arange(4, dtype=np.float32)
Publish = Callable[..., None]


def depth(link: Link) -> int:
    return int(link.call("XLEN", keys.lane(MODEL, "normal")))


def test_a_connection_lost_under_submits_runs_each_job_once(producer: Producer, link: Link, worker: Worker) -> None:
    # given
    is_over = threading.Event()
    kills: list[int] = []

    def kill() -> None:
        """Everybody's connection but the worker's and our own."""
        with_link = Link(link.url)
        with_link.connect()
        while not is_over.wait(0.005):
            for line in with_link.call("CLIENT", "LIST", "TYPE", "normal").decode().splitlines():
                if " name=worker " not in line:
                    with_link.call_all([("CLIENT", "KILL", "ID", line.split()[0].removeprefix("id="), "SKIPME", "yes")])
            kills.append(1)
        with_link.close()

    killer = threading.Thread(target=kill)
    killer.start()
    # when
    try:
        handles = []
        while len(kills) < 30:
            handles.append(producer.submit(MODEL, ROW))
    finally:
        is_over.set()
        killer.join()
    # then
    for handle in handles:
        handle.result(10)
    assert sorted(worker.runs) == sorted(handle.id.removeprefix(f"{MODEL}:") for handle in handles)


def test_forgotten_scripts_are_loaded_again(producer: Producer, link: Link) -> None:
    # given
    producer.submit(MODEL, ROW)
    link.call("SCRIPT", "FLUSH")
    # when
    producer.submit(MODEL, ROW)
    # then
    assert depth(link) == 2


def test_redis_down_at_first_use_says_where_and_what_to_do() -> None:
    with (
        Producer("unix:///nowhere/redis.sock", submit_timeout_s=0.1) as producer,
        pytest.raises(RedisUnavailable, match=r"no Redis at unix:///nowhere/redis.sock .* start it, or set redis.url"),
    ):
        producer.submit(MODEL, ROW)


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(RedisUnavailable, match="is not a Redis URL"):
        Producer("localhost:6379")


def test_a_submit_that_redis_does_not_answer_names_the_job(
    redis_url: str, link: Link, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Producer(redis_url, submit_timeout_s=0.2) as producer:
        # given
        producer.submit(MODEL, ROW)

        def lose(commands: Any) -> Any:
            """The command is sent, then Redis is gone for good."""
            line = producer._line._link
            line.send(*commands)
            line.read()
            line.close()
            line._connection.path = "/nowhere/redis.sock"
            raise OSError("lost")

        monkeypatch.setattr(producer._line._link, "call_all", lose)
        # when
        with pytest.raises(SubmitUnknown, match="may or may not be queued") as caught:
            producer.submit(MODEL, ROW)
    # then
    assert caught.value.job_id == f"{MODEL}:{producer.client}-2"
    with Producer(redis_url) as other:
        assert other.handle(caught.value.job_id).status() == "waiting"
