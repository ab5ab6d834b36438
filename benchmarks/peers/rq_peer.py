"""RQ, at its fastest: SimpleWorker, which forks no process per job, and `enqueue_many`, which pipelines.

No description of jobs, logging at errors only, a unix socket. RQ runs one job at a time: there is no batch. The client waits
for a result by RQ's own blocking read (`latest_result(timeout=...)`); results come in the order of the queue, so a flood is
over with the last one, and the reading of the others, one round trip each, is not charged to RQ.
"""

from __future__ import annotations

import os
import sys
import time

import redis
from rq import Queue, SimpleWorker
from rq.job import Job

from benchmarks.peers.model import Model
from benchmarks.peers.orders import serve

WITHIN_S = 60
_models: list[Model] = []  # the worker's; loaded before the first job


def infer(row: bytes) -> bytes:
    """The job."""
    return _models[0]([row])[0]


class RqClient:
    """Enqueues and waits."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url)
        self._queue = Queue("rows", connection=self._redis)

    def flood(self, rows: list[bytes]) -> None:
        self._wait(self._enqueue(rows)[-1])

    def one(self, row: bytes) -> None:
        self._wait(self._queue.enqueue(infer, row, description="-", result_ttl=60))

    def in_flight(self, rows: list[bytes], width: int) -> list[float]:
        took_s = []
        for at in range(0, len(rows), width):
            began = time.perf_counter()
            for job in self._enqueue(rows[at : at + width]):
                self._wait(job)
                took_s.append(time.perf_counter() - began)
        return took_s

    def _enqueue(self, rows: list[bytes]) -> list[Job]:
        jobs: list[Job] = []
        for at in range(0, len(rows), 256):
            jobs += self._queue.enqueue_many(
                [Queue.prepare_data(infer, (row,), description="-", result_ttl=60) for row in rows[at : at + 256]]
            )
        return jobs

    def _wait(self, job: Job) -> None:
        result = job.latest_result(timeout=WITHIN_S)
        if result is None or result.return_value is None:
            raise RuntimeError(f"RQ gave no result of job {job.id} within {WITHIN_S} s")


def work(url: str) -> None:
    """The worker, until SIGTERM."""
    _models.append(Model(os.environ["PEER_MODEL"]))
    worker = SimpleWorker([Queue("rows", connection=redis.Redis.from_url(url))], log_job_description=False)
    worker.work(logging_level="ERROR")


if __name__ == "__main__":
    # Imported by its own name: a job names its function, and in __main__ the worker would not find the loaded model.
    from benchmarks.peers import rq_peer

    if sys.argv[1] == "worker":
        rq_peer.work(os.environ["PEER_URL"])
    else:
        serve(rq=rq_peer.RqClient(os.environ["PEER_URL"]))
