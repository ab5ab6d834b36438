"""Runs as RQ jobs: what waits is queued, what was lost is queued again, and RQ's own tools show how it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from rq.cli import main as rq_cli
from rq.job import JobStatus

from broker import keys, run_lease, runs
from broker.connection import Link
from broker.embedded import find_server, temporary_server
from broker.rq_redis import rq_client
from broker.runs import Request
from broker.settings import PoolSettings, Settings
from operators.runs.enqueue import Enqueuer
from operators.runs.program_context import ProgramContext, context
from operators.runs.tasks import score
from operators.runs.worker import make_queue, make_worker, queue_names
from tests.conftest import DEBIAN
from tests.operators.runs_engine.conftest import Bench

SETTINGS = Settings(pool=PoolSettings(host="box"))
ME = "box/runs_00.aa"


@pytest.fixture
def connection(redis_url: str, link: Link) -> Iterator[Any]:
    """Of a Redis that holds no runs and nothing of RQ's; what the pool keeps there stays."""
    connection = rq_client(redis_url)

    def empty() -> None:
        for name in [*connection.keys("rq:*"), *connection.keys(f"{keys.POOL}run*")]:
            connection.delete(name)

    empty()
    yield connection
    empty()
    connection.close()


@pytest.fixture
def enqueuer(link: Link, connection: Any) -> Enqueuer:
    return Enqueuer(SETTINGS, link=link, connection=connection, name="runs_00", task=score)


def submit(link: Link, run: str, **changes: Any) -> str:
    return runs.submit(link, Request(**{"input": "/i", "output": f"/{run}", "model": "m"} | changes), run)[0].id


def queued(connection: Any) -> dict[str, list[str]]:
    """queue -> ids, of those that hold any."""
    return {name: ids for name in queue_names("box") if (ids := make_queue(name, connection).job_ids)}


def test_a_run_becomes_one_rq_job_of_its_id_that_may_take_for_ever(
    link: Link, connection: Any, enqueuer: Enqueuer
) -> None:
    submit(link, "r1")
    assert enqueuer.look() == ["r1"]
    job = make_queue("normal", connection).fetch_job("r1")
    assert job is not None
    assert (job.func_name, job.args, job.timeout) == ("operators.runs.tasks.score", ["r1"], -1)
    assert job.meta == {"rows_done": 0, "rows_total": None, "rows_failed": 0}
    assert not connection.hget("rq:job:r1", "serializer")
    assert [enqueuer.look() for _ in range(2)] == [[], []]
    assert queued(connection) == {"normal": ["r1"]}


def test_runs_stand_in_line_by_priority_host_and_age_and_another_hosts_are_left_to_it(
    link: Link, connection: Any, enqueuer: Enqueuer
) -> None:
    submit(link, "old")
    for run, changes in (("here", {"host": "box"}), ("there", {"host": "far"}), ("now", {"priority": "high"})):
        submit(link, run, **changes)
    link.call("HINCRBY", keys.run("old"), "created_ms", -1000)
    submit(link, "new")
    enqueuer.look()
    assert queued(connection) == {"high": ["now"], "normal@box": ["here"], "normal": ["old", "new"]}
    assert queue_names("box") == ["high@box", "high", "normal@box", "normal", "low@box", "low"]
    assert sorted(enqueuer.waiting()) == ["high", "normal", "normal", "normal"]


def test_a_run_whose_worker_was_killed_is_queued_again_once_nobody_has_its_lease(
    link: Link, connection: Any, enqueuer: Enqueuer
) -> None:
    # given: a worker took it and died
    submit(link, "r1")
    enqueuer.look()
    queue = make_queue("normal", connection)
    connection.lpop("rq:queue:normal")
    job = queue.fetch_job("r1")
    assert job is not None
    job.set_status(JobStatus.STARTED)
    connection.zadd("rq:wip:normal", {"r1:execution": 1})
    run_lease.take(link, "r1", ME)
    # then: while its lease stands it may live
    assert [enqueuer.look() for _ in range(3)] == [[], [], []]
    # when
    link.call("DEL", keys.run("r1", "_lease"))
    # then: once, after a look at which it may still have been on its way
    assert [enqueuer.look() for _ in range(3)] == [[], ["r1"], []]
    assert queued(connection) == {"normal": ["r1"]}
    # and RQ's own clean-up does not declare it abandoned
    make_worker(["normal"], connection).clean_registries()
    job.refresh()
    assert job.get_status() == JobStatus.QUEUED


def test_a_job_that_rq_lost_between_its_queue_and_its_worker_is_queued_again(
    link: Link, connection: Any, enqueuer: Enqueuer
) -> None:
    submit(link, "r1")
    enqueuer.look()
    connection.lpop("rq:queue:normal")
    assert [enqueuer.look() for _ in range(2)] == [[], ["r1"]]


def test_what_is_paused_or_has_ended_is_not_queued_and_what_was_cancelled_is_tidied_up(
    link: Link, connection: Any, enqueuer: Enqueuer
) -> None:
    for run in ("paused", "cancelled", "done"):
        submit(link, run)
    runs.ask(link, "paused", "pause")
    runs.ask(link, "cancelled", "cancel")
    run_lease.take(link, "done", ME)
    run_lease.note(link, "done", ME, leave="done", keep_ms=60_000)
    assert enqueuer.look() == ["cancelled"]
    assert enqueuer.waiting() == ()


def test_the_next_program_of_a_name_frees_what_the_dead_one_held_and_no_other(link: Link, enqueuer: Enqueuer) -> None:
    for run, owner in (("mine", ME), ("other", "box/runs_01.bb"), ("longer", "box/runs_00x.cc")):
        submit(link, run)
        run_lease.take(link, run, owner)
    assert enqueuer.free("box/runs_00") == ["mine"]
    assert runs.view(link, "mine").state == "queued"
    assert run_lease.is_held(link, ["mine", "other", "longer"]) == [False, True, True]


def test_a_round_says_that_the_program_lives_and_what_it_works(link: Link, enqueuer: Enqueuer) -> None:
    enqueuer.works("r7")
    enqueuer.round()
    assert [(one.host, one.name, one.run) for one in runs.beats(link)] == [("box", "runs_00", "r7")]


def test_a_worker_works_runs_and_rq_shows_their_progress_and_their_ends(
    bench: Bench, link: Link, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    enqueuer = Enqueuer(SETTINGS, link=link, connection=connection, name="runs_00", task=score)
    bench.write(100)
    good = bench.submit(host="box")
    bad = bench.submit(host="box", model="none", output=str(bench.folder / "bad.parquet"))
    worker = make_worker(queue_names("box"), connection)
    told: list[int] = []

    def tell(progress: Any) -> None:
        worker.keep_alive()
        told.append(connection.ttl(worker.key))

    token = context.set(ProgramContext(
        msgspec.structs.replace(bench.settings, pool=PoolSettings(host="box")), bench.url, ME,
        is_stopping=worker.stopping.is_set, waiting=lambda: (), tell=tell, works=enqueuer.works,
    ))  # fmt: skip
    # when
    try:
        enqueuer.look()
        assert worker.work(burst=True, with_scheduler=False, logging_level="ERROR")
    finally:
        context.reset(token)
    # then
    jobs = {run: make_queue("normal@box", connection).fetch_job(run) for run in (good, bad)}
    assert jobs[good].get_status() == JobStatus.FINISHED  # type: ignore[union-attr]
    assert jobs[good].return_value() == "done: 100 rows, 0 failed"  # type: ignore[union-attr]
    assert jobs[bad].get_status() == JobStatus.FAILED  # type: ignore[union-attr]
    assert "no model named 'none'" in str(jobs[bad].latest_result().exc_string)  # type: ignore[union-attr]
    assert min(told) > 0
    assert enqueuer.look() == []


@pytest.mark.parametrize("role", ["runs", "operator"])  # on a shared server the program has the rights of redis.url
@pytest.mark.parametrize("binary", [find_server(), DEBIAN], ids=["embedded", "debian"])
def test_all_of_it_is_within_the_rights_of_who_works_runs(tmp_path: Path, binary: Path, role: str) -> None:
    if not binary.exists():
        pytest.skip(f"{binary} is not installed")
    with temporary_server(tmp_path, binary=binary, has_roles=True) as url:
        as_runs = url.replace("unix://", f"unix://{role}:{role}@")
        link, connection = Link(as_runs), rq_client(as_runs)
        link.connect()
        enqueuer = Enqueuer(SETTINGS, link=link, connection=connection, name="runs_00", task=score)
        submit(link, "r1")
        enqueuer.round()
        worker = make_worker(queue_names("box"), connection, name="w")
        worker.register_birth()
        worker.run_maintenance_tasks()
        taken = worker.dequeue_job_and_maintain_ttl(1)
        assert taken is not None
        assert taken[0].id == "r1"
        worker.prepare_execution(taken[0])
        worker._kept_alive = time.monotonic() - 60
        worker.keep_alive()
        taken[0].meta["rows_done"] = 1
        taken[0].save_meta()
        run_lease.take(link, "r1", ME)
        run_lease.note(link, "r1", ME, {"rows_done": 1}, leave="done", keep_ms=1000)
        run_lease.prune(link)
        worker.set_state("idle")
        # and RQ's own tool shows it
        shown = CliRunner().invoke(rq_cli, ["info", "--url", as_runs])
        assert shown.exit_code == 0, shown.output
        assert "w (" in shown.output
        worker.register_death()
        link.close()
        connection.close()
