"""Runs on RQ: the one allowed function runs; whatever else a writer of Redis puts into a job is refused and never executed."""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from rq import Queue, SimpleWorker
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from operators.runs import tasks
from operators.runs.job import FIELDS, MOST_BYTES, AllowedJob
from operators.runs.worker import make_queue, make_worker

PING = "operators.runs.tasks.ping"
Work = Callable[[str], AllowedJob]


@pytest.fixture
def connection(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    monkeypatch.setenv("PENSTOCK_REDIS_URL", redis_url)
    connection = redis.Redis.from_url(redis_url)
    connection.flushall()
    yield connection
    connection.flushall()
    connection.close()


@pytest.fixture
def worker(connection: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> SimpleWorker:
    """Without its listener for commands, whose end takes a second."""
    monkeypatch.setattr(SimpleWorker, "subscribe", lambda self: None)
    return make_worker(["runs"], connection)


@pytest.fixture
def work(connection: redis.Redis, worker: SimpleWorker) -> Work:
    """Lets a worker take all that is queued; the job as it stands then."""

    def work(id: str) -> AllowedJob:
        assert worker.work(burst=True, with_scheduler=False)
        job = AllowedJob.fetch(id, connection=connection, serializer=JSONSerializer)
        assert isinstance(job, AllowedJob)
        return job

    return work


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that any callable which did run leaves behind."""
    return tmp_path / "ran"


def plant(connection: redis.Redis, data: bytes, *, is_packed: bool = True, **fields: Any) -> str:
    """A job as somebody who can write to Redis would write it, past every check of an honest client."""
    id = uuid4().hex
    body = {"data": zlib.compress(data) if is_packed else data, "origin": "runs", "status": "queued", "timeout": "60",
            "created_at": "2026-01-01T00:00:00.000000Z"}  # fmt: skip
    connection.hset(f"rq:job:{id}", mapping=body | fields)
    connection.sadd("rq:queues", "rq:queue:runs")
    connection.rpush("rq:queue:runs", id)
    return id


def call(name: str, *args: Any, **kwargs: Any) -> bytes:
    return json.dumps([name, None, args, kwargs]).encode()


def why(job: AllowedJob) -> str:
    assert job.get_status() == JobStatus.FAILED
    result = job.latest_result()
    assert result is not None
    return str(result.exc_string)


class Bomb:
    """Unpickling it makes a directory."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._path,)


def test_the_allowed_function_runs_and_gives_the_pools_time(connection: redis.Redis, work: Work) -> None:
    # given
    queued = make_queue("runs", connection).enqueue(tasks.ping, description="a run")
    # when
    job = work(queued.id)
    # then
    assert job.get_status() == JobStatus.FINISHED
    assert float(job.return_value()) == pytest.approx(time.time(), abs=60)


def test_a_job_by_the_allowed_name_in_plain_json_runs(connection: redis.Redis, work: Work) -> None:
    assert work(plant(connection, call(PING), is_packed=False)).get_status() == JobStatus.FINISHED


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "os.mkdir",
        "builtins.eval",
        "eval",
        "operators.runs.tasks.__import__",
        "operators.runs.tasks.__builtins__.eval",
        "operators.runs.tasks.load",
        "operators.runs.tasks.ping.__globals__",
        "operators.runs.tasks.ping ",
        "operators.runs.tasks..ping",
        "subprocess.check_output",
        "ping",
        "",
    ],
)
def test_a_name_outside_the_allow_list_is_refused(connection: redis.Redis, work: Work, mark: Path, name: str) -> None:
    job = work(plant(connection, call(name, str(mark))))
    assert f"was not run: {name!r} is not in the allow-list ({', '.join(sorted(tasks.ALLOWED))})" in why(job)
    assert not mark.exists()


def test_a_refused_module_is_not_even_imported(connection: redis.Redis, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    # given: a module that the worker could import
    (tmp_path / "planted.py").write_text("def go():\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    # when
    jobs = [
        plant(connection, call("planted.go")),
        plant(connection, call(PING), success_callback_name="planted.go", failure_callback_name="planted.go"),
    ]
    work(jobs[0])
    # then
    assert "planted" not in sys.modules


@pytest.mark.parametrize("is_packed", [True, False])
def test_pickled_data_is_never_unpickled(connection: redis.Redis, work: Work, mark: Path, is_packed: bool) -> None:
    # given
    data = pickle.dumps(Bomb(mark))
    # when
    job = work(plant(connection, data, is_packed=is_packed, meta=data, result=b"", exc_info=b""))
    # then
    assert "its data is not JSON; runs are never unpickled" in why(job)
    assert not mark.exists()


def test_a_job_of_an_ordinary_rq_client_is_refused_as_pickled(connection: redis.Redis, work: Work, mark: Path) -> None:
    queued = Queue("runs", connection=connection).enqueue(os.mkdir, str(mark))
    assert "not JSON" in why(work(queued.id))
    assert not mark.exists()


@pytest.mark.parametrize("instance", ["text", {"a": 1}, [1], 7, True])
def test_a_method_of_an_instance_is_refused(connection: redis.Redis, work: Work, instance: Any) -> None:
    data = json.dumps([PING, instance, [], {}]).encode()
    assert "its data is not [name, null, [arguments], {keywords}]" in why(work(plant(connection, data)))


@pytest.mark.parametrize(
    "data", [b"", b"null", b"7", b'"x"', b"[]", b'[["a"],null,[],{}]', b"[" * 100_000, b"\xff\xfe"]
)
def test_data_of_another_form_is_refused(connection: redis.Redis, work: Work, data: bytes) -> None:
    assert "was not run: its data is not" in why(work(plant(connection, data, is_packed=bool(data))))


@pytest.mark.parametrize("of", ["success", "failure", "stopped"])
@pytest.mark.parametrize("name", ["ping", "no_such_task"])
def test_callbacks_are_refused_and_never_run(
    connection: redis.Redis, work: Work, monkeypatch: pytest.MonkeyPatch, of: str, name: str
) -> None:
    # given: what RQ would import and call after the job, or when it failed
    monkeypatch.setattr("rq.job.import_attribute", lambda name: pytest.fail(f"{name} was imported"))
    # when
    job = work(plant(connection, call(f"operators.runs.tasks.{name}"), **{f"{of}_callback_name": "os.getpid"}))
    # then
    assert f"runs have no {of}_callback_name" in why(job)


@pytest.mark.parametrize(
    "fields",
    [
        {"webhooks": json.dumps([{"url": "http://127.0.0.1:1/", "job_status": "failed"}])},
        {"dependency_ids": json.dumps(["other"])},
        {"dependency_id": "other"},
        {"repeats_left": "3", "repeat_intervals": "[1]"},
        {"rate_limit_key": "x", "rate_limit_concurrency": "1"},
        {"group_id": "g"},
        {"retries_left": "3"},
        {"serializer": "rq.serializers.PickleSerializer"},
        {"something_new": "x"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_job_with_anything_that_runs_do_not_have_is_refused(
    connection: redis.Redis, work: Work, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str]
) -> None:
    monkeypatch.setattr("rq.webhook.urlopen", lambda *_, **__: pytest.fail("a webhook was sent"))
    job = work(plant(connection, call(PING), **fields))
    assert f"runs have no {', '.join(sorted(fields))}" in why(job)


def test_a_job_that_depends_on_a_run_is_not_run_and_does_not_harm_it(
    connection: redis.Redis, work: Work, mark: Path
) -> None:
    # given: an ordinary client's job that is to follow an allowed one
    first = make_queue("runs", connection).enqueue(tasks.ping)
    second = Queue("runs", connection=connection).enqueue(os.mkdir, str(mark), depends_on=first.id)
    # then
    assert work(first.id).get_status() == JobStatus.FINISHED
    # when: it is queued all the same
    connection.rpush("rq:queue:runs", second.id)
    # then
    assert "runs have no dependency_id" in why(work(second.id))
    assert not mark.exists()


@pytest.mark.parametrize("field", ["timeout", "result_ttl", "status", "created_at", "ttl", "enqueue_at_front"])
def test_a_garbled_hash_fails_the_job_and_not_the_worker(connection: redis.Redis, work: Work, field: str) -> None:
    # given
    bad = plant(connection, call(PING), **{field: b"\xffgarbage"})
    good = plant(connection, call(PING))
    # then
    assert work(good).get_status() == JobStatus.FINISHED
    raw = connection.hgetall(f"rq:job:{bad}")
    assert raw[b"status"] == b"failed"


def test_data_that_unpacks_without_end_is_refused_unread(connection: redis.Redis, work: Work) -> None:
    # given: 16 MB of zeros, packed once and twice
    zeros = b"\0" * (16 << 20)
    once, twice = plant(connection, zeros), plant(connection, zlib.compress(zeros))
    # then
    assert f"its data is larger than {MOST_BYTES} bytes" in why(work(once))
    job = AllowedJob.fetch(twice, connection, JSONSerializer)
    assert "its data is not JSON" in why(job)
    assert len(job.data) < MOST_BYTES


def test_an_abandoned_jobs_callback_is_not_run_by_the_cleanup(
    connection: redis.Redis, worker: SimpleWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: a job that seems to have died under another worker
    monkeypatch.setattr("rq.job.import_attribute", lambda name: pytest.fail(f"{name} was imported"))
    id = plant(connection, call(PING), status="started", failure_callback_name="os.getpid")
    connection.lrem("rq:queue:runs", 0, id)
    connection.zadd("rq:wip:runs", {f"{id}:execution": 1})
    # then
    worker.clean_registries()


def test_the_worker_never_falls_back_to_pickle(worker: SimpleWorker) -> None:
    assert worker.serializer is JSONSerializer
    assert worker.job_class is AllowedJob
    assert [(queue.serializer, queue.job_class) for queue in worker.queues] == [(JSONSerializer, AllowedJob)]
    assert worker._exc_handlers == []


def test_no_field_that_runs_may_have_names_a_callable_or_another_job() -> None:
    assert not [name for name in FIELDS for part in ("callback", "hook", "depend", "serial", "class") if part in name]
