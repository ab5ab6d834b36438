"""The program that works bulk runs: an RQ worker in the main thread, the enqueuer beside it. No CUDA, no model, no payload kept.

It holds a lock for life, so that its next incarnation may give up what a killed one held. Its end is soon and harmless at any time:
a run goes on from its last part.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any

import structlog
from rq import get_current_job

from broker import embedded, logs
from broker.connection import LOST, Link
from broker.errors import PenstockError
from broker.rq_redis import rq_client
from broker.settings import Settings, load
from operators.runs.enqueue import Enqueuer
from operators.runs.program_context import ProgramContext, context
from operators.runs.schedule import Schedules
from operators.runs.tasks import score
from operators.runs.worker import RunsWorker, make_worker, queue_names

ENDED, FAILED, TWICE = 0, 1, 75  # exit codes; supervisord starts it again whatever it is

log = structlog.get_logger()


def main() -> int:
    """The command; see ENDED, FAILED, TWICE for what it returns."""
    logs.to_stderr()
    try:
        if os.environ.get("SUPERVISOR_ENABLED") == "1":
            embedded.die_with_parent(os.getppid())  # an orphan would keep the lock from the next pool's program
        settings = load()
        name = os.environ.get("SUPERVISOR_PROCESS_NAME", "runs_00")
        settings.var.mkdir(parents=True, exist_ok=True)
        lock = embedded.take_lock(settings.var / f"{name}.lock")
        if lock is None:
            log.error("another program of this name lives", name=name, next="end it, or set SUPERVISOR_PROCESS_NAME")
            return TWICE
        return work(settings, name)
    except (*LOST, PenstockError, OSError) as error:
        log.error("runs cannot be worked", error=str(error), next="supervisord starts it again")
        return FAILED


def work(settings: Settings, name: str) -> int:
    """Works runs until told to end."""
    url = settings.redis_url_as("runs")
    link = Link(url)
    link.connect_within(settings.redis.connect_s)
    connection = rq_client(url)
    owner = f"{settings.host}/{name}"
    incarnation = secrets.token_hex(4)
    worker = make_worker(queue_names(settings.host), connection, name=f"{settings.host}-{name}-{incarnation}")
    schedules = Schedules(settings, link=link, connection=connection, owner=f"{owner}.{incarnation}")
    enqueuer = Enqueuer(
        settings,
        link=link,
        connection=connection,
        name=name,
        task=score,
        ticks=[schedules.tick],
        at_end=schedules.close,
    )
    worker.on_left = enqueuer.hasten
    freed = enqueuer.free(owner)
    context.set(ProgramContext(
        settings, url, f"{owner}.{incarnation}", is_stopping=worker.stopping.is_set, waiting=enqueuer.waiting,
        tell=_teller(worker), works=enqueuer.works,
    ))  # fmt: skip
    log.info("runs program started", host=settings.host, name=name, pid=os.getpid(), freed=freed)
    enqueuer.start()
    try:
        worker.work(with_scheduler=False, logging_level="WARNING")
    finally:
        enqueuer.stop()
    log.info("runs program ended", name=name)
    return ENDED if worker.stopping.is_set() else FAILED


def _teller(worker: RunsWorker) -> Any:
    """Shows a run's progress in RQ's own tools, and keeps its job from being declared abandoned. They may miss some of it."""

    def tell(progress: Mapping[str, Any]) -> None:
        job = get_current_job()
        try:
            worker.keep_alive()
            if job is not None:
                job.meta.update(progress)
                job.save_meta()  # type: ignore[no-untyped-call]
        except LOST as error:
            log.warning("progress not shown in RQ", error=str(error), next="shown with the next part")

    return tell
