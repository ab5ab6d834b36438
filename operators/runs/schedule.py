"""[schedules.NAME]: runs that are submitted again and again, and the clean-up, through RQ's cron. Of all schedulers of a pool one fires, who holds the lease.

RQ's own cron has no lease, takes local time, enqueues pickles and forgets what was due while it was away. Here a due time is one
RQ job with an id of its own, which Redis takes once: a scheduler that stood still in the middle and wakes behind the next one
fires nothing twice. A time missed while no scheduler lived is made up for once, the latest only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from croniter import croniter
from rq import Queue
from rq.cron import CronJob, CronScheduler
from rq.exceptions import DuplicateJobError, SchedulerNotFound
from rq.job import Job

from broker import schedules
from broker.connection import Link
from broker.settings import Settings
from operators.runs.clean import clean
from operators.runs.scheduled import submit
from operators.runs.worker import Redis, make_queue, queue_name

TASK_ID = "cron-"  # how ids of these tasks begin
CLEAN_CRON = "30 3 * * *"
KEPT_S = 7 * 24 * 3600  # how long a job that fired is remembered, and so its due time cannot fire again
ANSWER_S = 120.0  # a task that said nothing for so long and does not wait in its queue died: it is enqueued again
TRIES = 3  # so often
LOOK_S = 30.0  # between two looks for such, and two signs of life for RQ's tools


_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_-]")  # RQ takes no other letters


class _Waited(NamedTuple):
    """A time that fired and has no answer yet: since when this scheduler has seen it so, and how often it was enqueued again."""

    due_s: int
    since_s: float
    tries: int


class _Wanted(NamedTuple):
    """When to do what."""

    cron: str
    task: Callable[[str, int], str]


class Schedule(CronJob):
    """One schedule. Its times are UTC; `last` is the one it fired, or the moment it was first seen."""

    def __init__(self, name: str, wanted: _Wanted, queue: Queue, *, last: datetime) -> None:
        self.last = last
        self._queue = queue
        self._task = wanted.task
        super().__init__(queue.name, func=wanted.task, cron=wanted.cron, name=name)

    def get_next_enqueue_time(self) -> datetime:
        found: datetime = croniter(self.cron, self.last).get_next(datetime)
        return found

    def due(self, now: datetime) -> datetime | None:
        """The latest time that has come and was not fired; those before it are passed over."""
        if now < self.get_next_enqueue_time():
            return None
        latest: datetime = croniter(self.cron, datetime.fromtimestamp(int(now.timestamp()) + 1, UTC)).get_prev(datetime)
        return latest

    def fire(self, due: datetime, *, is_again: bool = False) -> bool:
        """Enqueues the task of `due`, unless somebody has. Whether it did."""
        id = f"{TASK_ID}{_NOT_IN_IDS.sub('-', self.name)}-{due:%Y%m%dT%H%MZ}"
        if is_again:
            if id in self._queue.job_ids:
                return False  # it waits for a worker
            self._queue.connection.delete(Job.key_for(id))
        try:
            self._queue.enqueue(
                self._task, self.name, int(due.timestamp()), job_id=id, unique=True, result_ttl=KEPT_S, failure_ttl=KEPT_S,
                job_timeout=-1, description=f"schedule {self.name}, due {due:%Y-%m-%d %H:%M} UTC",
            )  # fmt: skip
        except DuplicateJobError:
            return False
        return True


class Schedules(CronScheduler):
    """The scheduler of one program. `tick` is called about once a second, from one thread.

    `connection` is what the queues of runs use; `link` that thread's own.
    """

    def __init__(self, settings: Settings, *, link: Link, connection: Redis, owner: str, cleans: bool = True) -> None:
        """`cleans`: adds the clean-up of this host."""
        super().__init__(connection, name=f"penstock-{owner}", logging_level="WARNING")
        self._wanted = {name: _Wanted(one.cron, submit) for name, one in settings.schedules.items()}
        if cleans:
            self._wanted[f"clean-up of {settings.host}"] = _Wanted(CLEAN_CRON, clean)
        self._link = link
        self._owner = owner
        self._queue = make_queue(queue_name("high", settings.host), connection)
        self._held: dict[str, Schedule] = {}
        self._waited: dict[str, _Waited] = {}
        self._next_look_s = 0.0

    def tick(self, now: datetime | None = None) -> list[str]:
        """Fires what is due; the names of what it fired. Raises what the link and redis-py raise when Redis is away."""
        if not self._wanted:
            return []
        now = now or datetime.fromtimestamp(schedules.now_s(self._link), UTC)
        self._hold(now)
        if now.timestamp() >= self._next_look_s:
            self._next_look_s = now.timestamp() + LOOK_S
            self._ask_again(now)
            if self._held:
                self.heartbeat()  # for RQ's own tools, as is `save`
        fired = [name for name, job in self._held.items() if self._fire(name, job, now)]
        if fired:
            self.save()
        return fired

    def close(self) -> None:
        """Lets the next scheduler begin at once."""
        for name in self._held:
            schedules.leave(self._link, name, self._owner)
        if self._held:
            with suppress(SchedulerNotFound):
                self.register_death()
        self._held.clear()

    def _hold(self, now: datetime) -> None:
        """Takes up what nobody holds, where the scheduler before left it; a schedule never seen before begins now."""
        for name, one in self._wanted.items():
            if not schedules.hold(self._link, name, self._owner):
                self._held.pop(name, None)
            elif name not in self._held:
                known = schedules.read(self._link).get(name)
                if known is None:
                    known = schedules.Known(int(now.timestamp()), 0, None)
                    schedules.see(self._link, name, known.seen_s)
                last = datetime.fromtimestamp(max(known.seen_s, known.due_s), UTC)
                self._held[name] = Schedule(name, one, self._queue, last=last)
        self._cron_jobs = list(self._held.values())

    def _fire(self, name: str, job: Schedule, now: datetime) -> bool:
        due = job.due(now)
        if due is None:
            return False
        is_new = job.fire(due)
        schedules.fired(self._link, name, int(due.timestamp()))
        job.last = due
        job.set_enqueue_time(due)
        return is_new

    def _ask_again(self, now: datetime) -> None:
        """A task whose worker was killed is enqueued again; what it does twice it does once, for a run has one id."""
        known = schedules.read(self._link)
        for name, job in self._held.items():
            one = known.get(name)
            if one is None or one.is_answered:
                self._waited.pop(name, None)
                continue
            waited = self._waited.get(name)
            if waited is None or waited.due_s != one.due_s:
                self._waited[name] = _Waited(one.due_s, now.timestamp(), 0)
            elif now.timestamp() - waited.since_s < ANSWER_S:
                continue
            elif waited.tries == TRIES:
                text = f"its task ended {TRIES + 1} times without a word; see the log of the runs program"
                schedules.say(self._link, name, schedules.Said(one.due_s, error=text))
            elif job.fire(datetime.fromtimestamp(one.due_s, UTC), is_again=True):
                self._waited[name] = _Waited(one.due_s, now.timestamp(), waited.tries + 1)
