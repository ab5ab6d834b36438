"""The worker that takes runs: RQ's own loop with our job class, and JSON in place of pickle. One job at a time, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from operators.runs.job import AllowedJob

Redis: TypeAlias = Any  # a redis.Redis, which is imported in broker alone


def make_queue(name: str, connection: Redis) -> Queue:
    """A queue of runs, for those that enqueue and for the worker."""
    return Queue(name, connection=connection, job_class=AllowedJob, serializer=JSONSerializer)


def make_worker(names: Sequence[str], connection: Redis) -> SimpleWorker:
    """A worker of these queues; its `work()` runs until it is told to stop. Without RQ's scheduler, which knows no job class."""
    return SimpleWorker(
        [make_queue(name, connection) for name in names],
        connection=connection,
        job_class=AllowedJob,
        serializer=JSONSerializer,
        log_job_description=False,  # it is whatever the job's writer liked
    )
