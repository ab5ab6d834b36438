"""One Producer under threads, over a fork, and for ever: nobody gets another's result, nothing piles up."""

from __future__ import annotations

import os
import threading

import numpy as np

from producer import Producer
from tests.producer.fake import MODEL, Worker

ROW = np.arange(4, dtype=np.float32)


def test_eight_threads_share_a_producer(producer: Producer, worker: Worker) -> None:
    # given
    failures: list[BaseException] = []

    def infer(number: int) -> None:
        try:
            for at in range(500):
                row = np.full(4, number * 1000 + at, np.float32)
                if not np.array_equal(producer.infer(MODEL, row, timeout=20)["y"], row * 2):
                    raise AssertionError(f"thread {number} got the result of another job")
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=infer, args=(number,)) for number in range(8)]
    # when
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    # then
    assert failures == []
    assert len(worker.runs) == len(set(worker.runs)) == 4000


def test_a_forked_child_has_its_own_client_and_leaves_the_parents_sockets(producer: Producer, worker: Worker) -> None:
    # given
    before = producer.submit(MODEL, ROW)
    producer.infer(MODEL, ROW, timeout=20)
    client = producer.client
    reads, writes = os.pipe()
    # when
    child = os.fork()
    if child == 0:
        try:
            mine = producer.infer(MODEL, ROW + 1, timeout=20)["y"][0]
            parents = before.result(5)["y"][1]
            is_good = producer.client != client and (mine, parents) == (2, 2)
            os.write(writes, b"good" if is_good else b"bad")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    # then
    assert os.read(reads, 10) == b"good"
    assert producer.client == client
    for _ in range(3):
        producer.infer(MODEL, ROW, timeout=20)
    os.close(reads)
    os.close(writes)


def test_handles_thrown_away_are_not_remembered(producer: Producer) -> None:
    for _ in range(40):
        producer.submit_many(MODEL, [ROW] * 256)
    assert len(producer._models[MODEL].mailbox) <= 8192 + 256
