"""The thread beside the worker: says that the program lives, and sees to it that every run that waits stands in an RQ queue.

RQ alone loses a job whose worker is killed, or declares it failed after minutes. The truth is the run's hash and its lease: a run
that is to be worked, that nobody works and that stands in no queue is put into one. By level, every second, so that nothing
that was lost is lost for longer.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog
from rq import Queue
from rq.job import JOB_ID_PATTERN, JobStatus

from broker import keys, run_lease, runs
from broker.connection import LOST, Link, ResponseError
from broker.errors import LeaseLost, PenstockError, RedisUnavailable
from broker.runs import View
from broker.settings import Settings
from operators.runs.schedule import TASK_ID
from operators.runs.worker import Redis, make_queue, queue_name, queue_names

BEAT_S, LOOK_S, PRUNE_S = 1.0, 1.0, 3600.0
PEEK_S = 0.03  # between two looks for a run just submitted: one small command
WARN_EVERY_S = 30.0

log = structlog.get_logger()


class Enqueuer(threading.Thread):
    """Runs until `stop`. `ticks` are called once a second too, with their own trouble reported and survived."""

    def __init__(
        self, settings: Settings, *, link: Link, connection: Redis, name: str, task: Callable[..., Any],
        ticks: Sequence[Callable[[], Any]] = (), at_end: Callable[[], Any] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        super().__init__(name="enqueuer", daemon=True)
        self._settings = settings
        self._link = link
        self._connection = connection
        self._name = name
        self._task = task
        self._ticks = ticks
        self._at_end = at_end
        self._clock = clock
        self._over, self._soon = threading.Event(), threading.Event()
        self._next_look = self._next_prune = self._next_warning = 0.0
        self._missing: set[str] = set()  # that a worker may have been about to lease at the last look
        self._waiting: tuple[str, ...] = ()
        self._working = ""
        self._newest: Any = None

    def waiting(self) -> tuple[str, ...]:
        """The priorities of the runs that wait for a program of this host."""
        return self._waiting

    def works(self, run: str) -> None:
        """What the worker works now, "" nothing: the beat says it."""
        self._working = run

    def hasten(self) -> None:
        """A run was left: it may have to be enqueued again, at once."""
        self._next_look = 0.0
        self._soon.set()

    def stop(self) -> None:
        self._over.set()
        self._soon.set()
        self.join(10)

    def run(self) -> None:
        while not self._over.is_set():
            try:
                if self._link.fileno() < 0:
                    self._link.connect()
                self.round()
            except (*LOST, RedisUnavailable) as error:
                self._link.close()
                self._away(error)
            except Exception:  # the thread's edge: a program without it would not be seen, and would be given no work
                log.exception("round failed", retry_in_s=BEAT_S)
            self._pause()
        with suppress(*LOST, PenstockError):
            self._at_end()
        self._link.close()

    def _pause(self) -> None:
        """Until the next sign of life is due, something hastens it, or a run was submitted."""
        until = self._clock() + BEAT_S
        while self._clock() < until and not self._soon.wait(PEEK_S):
            try:
                newest = (
                    self._link.call("ZRANGE", keys.runs(), -1, -1, "WITHSCORES") if self._link.fileno() >= 0 else None
                )
            except (*LOST, ResponseError):
                self._link.close()
                return
            if newest != self._newest:
                self._newest = newest
                self._next_look = 0.0
                return
        self._soon.clear()

    def round(self) -> None:
        """One sign of life, and now and then one look. Raises one of connection.LOST."""
        now = self._clock()
        run_lease.beat(self._link, self._settings.host, self._name, pid=os.getpid(), run=self._working)
        if now >= self._next_look:
            self._next_look = now + LOOK_S
            self.look()
        if now >= self._next_prune:
            self._next_prune = now + PRUNE_S
            run_lease.prune(self._link)
        for tick in self._ticks:
            try:
                tick()
            except (PenstockError, ResponseError) as error:
                log.warning("schedules not looked at", error=str(error), retry_in_s=BEAT_S)

    def look(self) -> list[str]:
        """Enqueues what waits and stands in no queue; their ids."""
        idle = self._idle()
        queued = {id for name in queue_names(self._settings.host) for id in make_queue(name, self._connection).job_ids}
        runs_that_wait = tuple(one.request.priority for one in idle if one.asked != "discard")
        # tasks of schedules take seconds, and must not wait for the end of a run of hours
        self._waiting = runs_that_wait + ("high",) * sum(id.startswith(TASK_ID) for id in queued)
        missing = {one.id: one for one in sorted(idle, key=_age) if one.id not in queued}
        due = [one for one in missing.values() if one.id in self._missing or not self._is_on_its_way(one)]
        for one in due:
            self._enqueue(one)
        self._missing = missing.keys() - {one.id for one in due}
        return [one.id for one in due]

    def _is_on_its_way(self, view: View) -> bool:
        """Whether a worker may have taken it from its queue just now, without having its lease yet."""
        job = self._queue(view).fetch_job(view.id)
        return job is not None and job.get_status(refresh=False) in (JobStatus.QUEUED, JobStatus.STARTED)

    def free(self, owner: str) -> list[str]:
        """Gives up the leases of programs of this name that are proven dead: who calls holds the name's lock."""
        freed = []
        for view in runs.views(self._link):
            if view.state == "running" and view.owner.startswith(f"{owner}."):
                try:
                    run_lease.note(self._link, view.id, view.owner, leave="queued")
                    freed.append(view.id)
                except LeaseLost:
                    pass  # it had lapsed already
        return freed

    def _idle(self) -> list[View]:
        """Runs of this host, or of any, that are to be worked and that nobody works, those among them that were cancelled and left parts."""
        here = ("", self._settings.host)
        open_ = [
            one for one in runs.views(self._link)
            if (one.state in ("queued", "running") or one.asked == "discard") and one.request.host in here
            and JOB_ID_PATTERN.fullmatch(one.id)  # another stands in Redis by no hand of ours, and RQ would not take it
        ]  # fmt: skip
        held = run_lease.is_held(self._link, [one.id for one in open_])
        return [one for one, is_held in zip(open_, held, strict=True) if not is_held]

    def _enqueue(self, view: View) -> None:
        queue = self._queue(view)
        keep_s = int(self._settings.runs.keep_days * 24 * 3600)
        old = queue.fetch_job(view.id)
        if old is not None:
            old.delete()  # of a worker that died: its execution would be declared abandoned while the new one runs
        queue.enqueue_call(
            self._task, args=(view.id,), job_id=view.id, timeout=-1, result_ttl=keep_s, failure_ttl=keep_s,
            description=f"run {view.id}: {view.request.model}",
            meta={"rows_done": view.rows_done, "rows_total": view.rows_total, "rows_failed": view.rows_failed},
        )  # fmt: skip
        log.info("run enqueued", run=view.id, state=view.state, rows_done=view.rows_done)

    def _queue(self, view: View) -> Queue:
        return make_queue(queue_name(view.request.priority, view.request.host), self._connection)

    def _away(self, error: Exception) -> None:
        if self._clock() >= self._next_warning:
            self._next_warning = self._clock() + WARN_EVERY_S
            log.warning("redis does not answer", error=str(error), retry_in_s=BEAT_S)


def _age(view: View) -> int:
    return view.created_ms
