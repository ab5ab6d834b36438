"""A master lost behind Sentinel: producers and workers find the next one, and what replication lost is told."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from broker import spec
from broker.connection import Link
from broker.queue import Queue
from broker.spec import Limits
from producer import AsyncProducer, PenstockError, Producer, ResultExpired
from tests.producer.fake import MODEL, Worker, model_spec
from tests.redis_topology import Replicated, replicated
from tests.wait import wait_until

ROW = np.arange(4, dtype=np.float32)


@pytest.fixture
def guarded() -> Iterator[Replicated]:
    with tempfile.TemporaryDirectory(prefix="guarded-", dir="/tmp") as name, replicated(Path(name)) as found:
        link = Link(found.sentinel_url)
        link.connect()
        spec.publish(link, model_spec(), Limits())
        Queue(MODEL, "none").ensure_groups(link)
        assert link.call("WAIT", 1, 4000) >= 1, "a replica has the model, else a failover forgets it"
        link.close()
        yield found


def test_a_master_that_crashed_costs_no_caller_its_answer(guarded: Replicated) -> None:
    """What the old master acknowledged and had not replicated is lost: its callers are told so, nobody waits in vain."""
    is_over = threading.Event()
    handles: list[Any] = []
    errors: list[BaseException] = []

    def submit(producer: Producer) -> None:
        try:
            while not is_over.wait(0.002):
                handles.append(producer.submit(MODEL, ROW))
        except PenstockError as error:
            errors.append(error)

    async def one() -> float:
        async with AsyncProducer(guarded.sentinel_url) as producer:
            return float((await producer.infer(MODEL, ROW, 10))["y"][1])

    with Worker(guarded.sentinel_url) as worker, Producer(guarded.sentinel_url) as producer:
        # given: jobs come all the time
        thread = threading.Thread(target=submit, args=(producer,))
        thread.start()
        wait_until(lambda: len(worker.runs) > 20, "jobs are run")
        # when
        before = guarded.master_port()
        guarded.crash_master()
        mark = len(handles)
        wait_until(lambda: len(handles) > mark + 20 or errors, "submits go on", timeout=10)
        is_over.set()
        thread.join(15)
        # then
        assert not errors
        assert guarded.master_port() != before
        sweep(guarded)
        lost = 0
        for handle in handles:
            try:
                handle.result(10)
            except ResultExpired:
                lost += 1
        assert lost < len(handles) / 2
        assert handles[-1].status() == "done"
        # and a client that comes later finds the new master as well
        assert asyncio.run(one()) == 2.0


def test_a_master_that_was_demoted_is_as_good_as_away(guarded: Replicated) -> None:
    # given: a link to the first server itself, past Sentinel
    link, through = Link(guarded.first_url), Link(guarded.sentinel_url)
    link.connect()
    through.connect()
    assert through._connection.port == guarded.first_port
    # when: another becomes the master, and the old one has heard of it
    guarded.fail_over()
    assert role(guarded.first_url) == b"slave"
    # then: its answer counts as a loss, and a new connect leads to the new master
    link.close()
    link.connect()
    with pytest.raises(RedisConnectionError, match="READONLY"):
        link.call("SET", "x", 1)
    through.close()
    through.connect()
    assert through._connection.port == guarded.second_port
    link.close()
    through.close()


def sweep(guarded: Replicated) -> None:
    """Returns what the worker had claimed when the connection broke, and never heard of; a slot's beat does that."""
    link = Link(guarded.sentinel_url)
    link.connect_within(10)  # Sentinel, asked while it tells its configuration on, may know of no master for a moment
    link.call(*Queue(MODEL, "sweeper").sweep(lease_ms=100))
    link.close()


def role(url: str) -> bytes:
    link = Link(url)
    link.connect()
    try:
        return bytes(link.call("ROLE")[0])
    finally:
        link.close()
