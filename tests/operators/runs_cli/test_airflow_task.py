"""The task of examples/, under a stand-in for Airflow's context: what it does when it is retried."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from broker import runs
from broker.connection import Link
from examples.airflow_task import score
from producer import RunFailed
from tests.operators.runs_cli.conftest import MODEL, stands


class TaskInstance:
    """What the task uses of Airflow's."""

    def __init__(self, try_number: int) -> None:
        self.try_number = try_number
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


@pytest.fixture
def day(config: Path, program: None, rows: Path) -> dict[str, Any]:
    """The task's arguments of a day whose file is there."""
    rows.rename(rows.with_name("2026-03-01.parquet"))
    return {"input": f"{rows.parent}/{{ds}}.parquet", "output": f"{rows.parent}/scored-{{ds}}.parquet", "model": MODEL}


def attempt(day: dict[str, Any], number: int) -> tuple[str, TaskInstance]:
    task = TaskInstance(number)
    return score(**day, ds="2026-03-01", ti=task, dag=SimpleNamespace(dag_id="nightly")), task


def test_a_task_that_is_retried_attaches_to_its_run_and_ends_with_the_output(
    day: dict[str, Any], link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: a first try that Airflow killed while it waited
    with monkeypatch.context() as killing:
        killing.setattr("producer.runs.Run.wait", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            attempt(day, 1)
    (view,) = runs.views(link)
    stands(link, view.id, state="done", rows_total=250, rows_done=250)
    Path(view.request.output).write_bytes(b"scored")
    # when
    output, task = attempt(day, 2)
    # then
    assert output == view.request.output
    assert output.endswith("/scored-2026-03-01.parquet")
    assert task.pushed == {"run": view.id}
    assert len(runs.views(link)) == 1


def test_a_run_that_failed_goes_on_when_the_next_try_submits_it(
    day: dict[str, Any], link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    ends = iter([{"state": "failed", "error": "no space"}, {"state": "done", "rows_done": 250}])
    real = runs.submit

    def submit(*args: Any, **options: Any) -> Any:
        view, is_new = real(*args, **options)
        assert view.state == "queued"  # the failed one, too, was let go on
        stands(link, view.id, **next(ends))
        return view, is_new

    monkeypatch.setattr(runs, "submit", submit)
    # then
    with pytest.raises(RunFailed, match="no space"):
        attempt(day, 1)
    assert attempt(day, 2)[0].endswith("/scored-2026-03-01.parquet")
    assert len(runs.views(link)) == 1


def test_too_many_failed_rows_fail_the_task(day: dict[str, Any], link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    real = runs.submit

    def submit(*args: Any, **options: Any) -> Any:
        view, is_new = real(*args, **options)
        stands(link, view.id, state="done_with_errors", rows_done=250, rows_failed=5)
        return view, is_new

    monkeypatch.setattr(runs, "submit", submit)
    with pytest.raises(RunFailed, match="5 of 250 rows failed; see `penstock run errors"):
        attempt(day, 1)
