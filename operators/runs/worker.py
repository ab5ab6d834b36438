"""The worker that takes runs: RQ's own loop with our job class, and JSON in place of pickle. One job at a time, in this process.

RQ's traps that are closed here: its worker says nothing while it works in its own process, so that others would declare its job
abandoned; after a lost connection it waits up to a minute; commands may reach it over pub/sub.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from broker.runs import PRIORITIES
from operators.runs.job import AllowedJob

Redis: TypeAlias = Any  # a redis.Redis, which is imported in broker alone

WORKER_TTL_S = 30  # RQ blocks 15 s less for a job, and forgets a worker a minute after this
KEEP_ALIVE_S = 10.0


class RunsWorker(SimpleWorker):
    """Takes jobs from its queues, the first ones first. `stopping` is set as soon as it is told to end."""

    exponential_backoff_factor = 1.0  # a lost Redis is looked for every second

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.stopping = threading.Event()
        self.on_left: Callable[[], None] = lambda: None
        self._kept_alive = 0.0

    def subscribe(self) -> None:
        """Takes no commands from Redis: what is asked of a run stands in its hash."""

    def handle_warm_shutdown_request(self) -> None:
        self.stopping.set()

    def execute_job(self, job: Any, queue: Any) -> None:
        super().execute_job(job, queue)
        self.on_left()

    def keep_alive(self) -> None:
        """To be called while a job runs, as often as one likes. Raises what redis-py raises."""
        now = time.monotonic()
        if now - self._kept_alive >= KEEP_ALIVE_S:
            self._kept_alive = now
            for execution in self.executions.values():
                self.maintain_heartbeats(execution.job if execution._job is None else execution._job, execution)


def make_queue(name: str, connection: Redis) -> Queue:
    """A queue of runs, for those that enqueue and for the worker."""
    return Queue(name, connection=connection, job_class=AllowedJob, serializer=JSONSerializer)


def make_worker(names: Sequence[str], connection: Redis, *, name: str | None = None) -> RunsWorker:
    """A worker of these queues; its `work()` runs until it is told to stop. Without RQ's scheduler, which knows no job class."""
    return RunsWorker(
        [make_queue(one, connection) for one in names],
        name=name,
        connection=connection,
        job_class=AllowedJob,
        serializer=JSONSerializer,
        worker_ttl=WORKER_TTL_S,
        log_job_description=False,  # it is whatever the job's writer liked
    )


def queue_name(priority: str, host: str = "") -> str:
    """Of runs that only one host's programs may work, or, without a host, any."""
    return f"{priority}@{host}" if host else priority


def queue_names(host: str) -> list[str]:
    """The queues a host's workers listen on, first ones first."""
    return [queue_name(priority, at) for priority in PRIORITIES for at in (host, "")]
