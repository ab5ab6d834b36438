"""Schedules: what is due fires once, whoever lives, and what became of it can be seen."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from rq.cron import CronScheduler
from rq.job import Job
from rq.serializers import JSONSerializer

from broker import keys, runs, schedules
from broker.connection import Link
from broker.errors import RunError
from broker.settings import Settings
from operators.runs import clean, scheduled, tasks
from operators.runs.enqueue import Enqueuer
from operators.runs.job import AllowedJob
from operators.runs.program_context import ProgramContext, context
from operators.runs.schedule import ANSWER_S, LOOK_S, Redis, Schedules
from operators.runs.worker import make_queue, make_worker, queue_names
from tests.operators.runs_cli.conftest import Penstock

NOON = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
Make = Callable[..., Schedules]


def at(hour: int, minute: int = 0, day: int = 1) -> datetime:
    return datetime(2026, 3, day, hour, minute, 5, tzinfo=UTC)


@pytest.fixture
def scheduler(settings: Settings, connection: Redis, redis_url: str) -> Iterator[Make]:
    links = []

    def make(owner: str = "one", settings: Settings = settings) -> Schedules:
        link = Link(redis_url)
        link.connect()
        links.append(link)
        return Schedules(settings, link=link, connection=connection, owner=owner, cleans=False)

    yield make
    for link in links:
        link.close()


def queued(connection: Redis) -> list[str]:
    return list(make_queue("high@box", connection).job_ids)


def test_what_is_due_fires_once_and_is_a_job_that_the_worker_may_run(scheduler: Make, connection: Redis) -> None:
    # given
    one = scheduler()
    assert one.tick(NOON) == []
    # when
    assert one.tick(at(13)) == ["nightly"]
    assert one.tick(at(13)) == []
    assert one.tick(at(23)) == []
    # then
    (id,) = queued(connection)
    assert id == "cron-nightly-20260301T1300Z"
    job = AllowedJob.fetch(id, connection=connection, serializer=JSONSerializer)
    assert job.func is scheduled.submit
    assert job.args == ["nightly", int(datetime(2026, 3, 1, 13, tzinfo=UTC).timestamp())]
    # and the next day
    assert one.tick(at(13, day=2)) == ["nightly"]


def test_of_two_schedulers_one_fires_and_the_other_takes_over_when_it_leaves_or_dies(
    scheduler: Make, link: Link, connection: Redis
) -> None:
    # given
    first, second = scheduler("first"), scheduler("second")
    first.tick(NOON)
    # then
    assert (second.tick(at(13)), first.tick(at(13))) == ([], ["nightly"])
    # when: it leaves
    first.close()
    link.call("PERSIST", keys.run("cron:nightly", "_lease"))  # its last millisecond need not be waited for
    link.call("DEL", keys.run("cron:nightly", "_lease"))
    # then
    assert second.tick(at(13, 1)) == []
    assert second.tick(at(13, day=2)) == ["nightly"]
    assert first.tick(at(13, day=2)) == []


def test_a_scheduler_that_stood_still_and_wakes_behind_the_next_fires_nothing_twice(
    scheduler: Make, link: Link, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: both believe that the lease is theirs
    first, second = scheduler("first"), scheduler("second")
    monkeypatch.setattr(schedules, "hold", lambda *_: True)
    first.tick(NOON)
    second.tick(NOON)
    fired: list[str] = []
    barrier = threading.Barrier(2)

    def go(one: Schedules) -> None:
        barrier.wait()
        fired.extend(one.tick(at(13)))

    # when
    threads = [threading.Thread(target=go, args=(one,)) for one in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # then
    assert fired == ["nightly"]
    assert len(queued(connection)) == 1


def test_times_missed_while_nobody_lived_are_made_up_for_once_by_the_latest(
    scheduler: Make, link: Link, connection: Redis
) -> None:
    # given
    first = scheduler("first")
    first.tick(NOON)
    link.call("DEL", keys.run("cron:nightly", "_lease"))
    # when: four days later
    assert scheduler("second").tick(at(9, day=5)) == ["nightly"]
    # then
    assert queued(connection) == ["cron-nightly-20260304T1300Z"]


def test_hosts_that_know_other_schedules_fire_their_own(scheduler: Make, settings: Settings, connection: Redis) -> None:
    other = msgspec.structs.replace(settings, schedules={"hourly": settings.schedules["nightly"]})
    first, second = scheduler("first"), scheduler("second", other)
    first.tick(NOON)
    second.tick(NOON)
    assert (first.tick(at(13)), second.tick(at(13))) == (["nightly"], ["hourly"])


def test_a_task_whose_worker_was_killed_is_enqueued_again_and_given_up_in_the_end(
    scheduler: Make, link: Link, connection: Redis
) -> None:
    # given: a worker took it, and died
    one = scheduler()
    one.tick(NOON)
    one.tick(at(13))
    (id,) = queued(connection)
    tries, now = 0, at(13)
    # when
    while not (said := schedules.read(link)["nightly"].said):
        connection.delete("rq:queue:high@box")
        now += timedelta(seconds=LOOK_S)
        one.tick(now)
        assert queued(connection) in ([], [id])
        tries += len(queued(connection))
        assert now < at(14)
    # then
    assert tries == 3
    assert said.error.startswith("its task ended 4 times without a word")
    assert Job.exists(id, connection=connection)


def test_a_task_that_waits_in_its_queue_is_left_there(scheduler: Make, connection: Redis) -> None:
    one = scheduler()
    one.tick(NOON)
    for seconds in (0, LOOK_S, ANSWER_S + LOOK_S, ANSWER_S + 2 * LOOK_S):
        one.tick(at(13) + timedelta(seconds=seconds))
    assert len(queued(connection)) == 1


def test_a_run_of_hours_lets_a_schedules_task_go_first(
    scheduler: Make, settings: Settings, connection: Redis, link: Link
) -> None:
    # given: the thread that tells the run at work who waits
    enqueuer = Enqueuer(settings, link=link, connection=connection, name="runs_00", task=tasks.score)
    one = scheduler()
    one.tick(NOON)
    enqueuer.look()
    assert enqueuer.waiting() == ()
    # when
    one.tick(at(13))
    enqueuer.look()
    # then
    assert enqueuer.waiting() == ("high",)


def test_rqs_own_tools_see_the_scheduler_and_its_next_time(scheduler: Make, connection: Redis) -> None:
    one = scheduler("box/runs_00")
    one.tick(NOON)
    one.tick(at(13))
    (seen,) = CronScheduler.all(connection)
    assert seen.name == "penstock-box/runs_00"
    assert [(job.name, job.cron, job.next_enqueue_time) for job in seen.get_jobs()] == [
        ("nightly", "0 13 * * *", datetime(2026, 3, 2, 13, tzinfo=UTC))
    ]
    one.close()
    assert CronScheduler.all(connection) == []


def test_the_worker_of_runs_does_the_task(
    scheduler: Make, settings: Settings, connection: Redis, link: Link, redis_url: str
) -> None:
    # given
    one = scheduler()
    one.tick(NOON)
    one.tick(at(13))
    context.set(
        ProgramContext(settings, redis_url, "box/runs_00", lambda: False, lambda: (), lambda _: None, lambda _: None)
    )
    # when
    make_worker(queue_names("box"), connection).work(burst=True, with_scheduler=False)
    # then
    (view,) = runs.views(link)
    assert schedules.read(link)["nightly"].said == schedules.Said(int(at(13).timestamp()) - 5, run=view.id)
    assert view.request.user == "schedule nightly"


def test_what_is_wrong_with_a_schedule_is_seen_where_schedules_are_listed(
    penstock: Penstock, scheduler: Make, settings: Settings, link: Link
) -> None:
    # given
    one = scheduler()
    one.tick(NOON)
    one.tick(at(13, day=2))
    # when: that day has no file
    with pytest.raises(RunError, match=r"day-2026-03-02\.parquet: No such file"):
        scheduled.answer(settings, link, "nightly", int(at(13, day=2).timestamp()))
    # then
    code, out, _ = penstock("run", "schedules")
    assert code == 0
    assert "nightly   0 13 * * *  double" in out
    assert "2026-03-02 13:00 UTC  cannot read" in out
    (entry,) = json.loads(penstock("run", "schedules", "--json")[1])
    assert entry["is_watched"] is True
    assert entry["next_s"] > 0


def test_every_host_cleans_up_once_a_day(settings: Settings, connection: Redis, link: Link) -> None:
    # given
    one = Schedules(msgspec.structs.replace(settings, schedules={}), link=link, connection=connection, owner="one")
    one.tick(NOON)
    # when
    assert one.tick(at(4, day=2)) == ["clean-up of box"]
    # then
    (id,) = queued(connection)
    assert id == "cron-clean-up-of-box-20260302T0330Z"
    assert AllowedJob.fetch(id, connection=connection, serializer=JSONSerializer).func is clean.clean
