"""`producer.runs`: bulk runs from Python, by programs that have neither rq nor pyarrow."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import producer
from broker import keys, run_lease
from broker.connection import Link
from broker.errors import InvalidInput, ResultTimeout, RunError, RunFailed, UnknownModel
from producer import runs
from tests.producer.fake import MODEL, wait_until

HOST = "box"
Order = Callable[..., runs.Run]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("x0,x1,x2,x3\n1,2,3,4\n")
    return path


@pytest.fixture
def order(redis_url: str, link: Link, publish: Any, rows: Path, tmp_path: Path) -> Order:
    """Submits a run of the file, by a machine that has a program which works runs."""
    run_lease.beat(link, HOST, "runs_00", pid=1, run="")

    def order(**changes: Any) -> runs.Run:
        said = {
            "input": str(rows),
            "model": MODEL,
            "output": str(tmp_path / "o.csv"),
            "mapping": {"inputs": {"x": "x*"}},
        }
        return runs.submit(**(said | {"url": redis_url, "host": HOST} | changes))

    return order


@pytest.fixture
def worked(redis_url: str) -> Iterator[Callable[..., None]]:
    """Makes a run look so, a moment from now, as the program that works it would."""
    threads: list[threading.Thread] = []

    def worked(run: runs.Run, **fields: object) -> None:
        def work() -> None:
            own = Link(redis_url)
            own.connect()
            own.call("HSET", keys.run(run.id), *(str(part) for pair in fields.items() for part in pair))
            own.close()

        threads.append(threading.Timer(0.05, work))
        threads[-1].start()

    yield worked
    for thread in threads:
        thread.join()


def test_a_run_is_submitted_and_its_retry_attaches_to_it(order: Order, redis_url: str, rows: Path) -> None:
    # when
    first, again = order(), order()
    # then
    assert (first.is_new, again.is_new, again.id) == (True, False, first.id)
    assert first.warning == ""
    view = runs.attach(first.id, url=redis_url).view()
    assert (view.state, view.request.input, view.request.host) == ("queued", str(rows), HOST)
    assert view.request.mapping == {"inputs": {"x": ["x*"]}}
    assert [one.id for one in runs.ls(url=redis_url)] == [first.id]


def test_another_mapping_or_output_is_another_run_and_spelling_is_not(order: Order, tmp_path: Path) -> None:
    one = order()
    assert order(mapping={"inputs": {"x": ["x*"]}, "keys": (), "outputs": "auto"}).id == one.id
    assert order(output=str(tmp_path / "o2.csv")).id != one.id
    assert order(output=str(tmp_path / "o3.csv"), mapping={"inputs": {"x": "x*"}, "keys": "x0"}).id != one.id


def test_waiting_tells_progress_and_gives_how_it_ended(order: Order, worked: Callable[..., None]) -> None:
    # given
    run = order()
    states = []
    worked(run, rows_total=1, rows_done=1, rows_failed=1, state="done_with_errors")
    # when
    view = run.wait(10, on_progress=lambda view: states.append(view.state), look_s=0.01)
    # then
    assert (view.state, view.rows_done, view.rows_failed) == ("done_with_errors", 1, 1)
    assert (states[0], states[-1]) == ("queued", "done_with_errors")


@pytest.mark.parametrize(
    ("state", "error", "says"),
    [("failed", "no space left", "failed: no space left"), ("cancelled", "", "was cancelled")],
)
def test_one_that_failed_or_was_cancelled_raises_with_its_end(
    order: Order, worked: Callable[..., None], state: str, error: str, says: str
) -> None:
    run = order()
    worked(run, state=state, error=error)
    with pytest.raises(RunFailed, match=says) as failed:
        run.wait(10, look_s=0.01)
    assert failed.value.view.state == state


def test_waiting_no_longer_leaves_it_alone_and_waiting_again_is_safe(order: Order, worked: Callable[..., None]) -> None:
    run = order()
    with pytest.raises(ResultTimeout, match=r"did not end within 0\.02 s"):
        run.wait(0.02, look_s=0.01)
    worked(run, state="done")
    assert run.wait(10, look_s=0.01).state == "done"


def test_a_lost_connection_is_made_anew_while_waiting(order: Order, link: Link) -> None:
    # given: somebody who waits
    run = order()
    ends: list[str] = []
    waiter = threading.Thread(target=lambda: ends.append(run.wait(20, look_s=0.01).state))
    waiter.start()
    # when
    wait_until(lambda: int(link.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")) > 0)
    link.call("HSET", keys.run(run.id), "state", "done")
    # then
    waiter.join(20)
    assert ends == ["done"]


def test_it_is_paused_resumed_cancelled(order: Order) -> None:
    run = order()
    assert run.pause().state == "paused"
    assert run.resume().state == "queued"
    assert run.cancel().state == "cancelled"
    assert run.errors() == []
    with pytest.raises(RunError, match="cannot pause"):
        run.pause()
    with pytest.raises(RunError, match="failed rows are scored again once it has gone through"):
        run.retry()


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model": "duoble"}, UnknownModel, 'did you mean "double"'),
        ({"input": "/nowhere.csv"}, RunError, "cannot read /nowhere.csv: No such file"),
        ({"input": ""}, InvalidInput, "input='' must be a text"),
        ({"priority": "hihg"}, InvalidInput, 'unknown priority "hihg"; did you mean "high"?'),
        ({"if_exists": "resum"}, InvalidInput, 'did you mean "resume"?'),
        ({"mapping": {"input": {}}}, InvalidInput, 'unknown key "input"; did you mean "inputs"?'),
        ({"mapping": {"inputs": {"x": [1]}}}, InvalidInput, "must be a column's name"),
        ({"mapping": {"inputs": {"z": "x*"}}}, InvalidInput, 'unknown input "z"'),
        ({"mapping": {"outputs": "row"}}, InvalidInput, 'did you mean "raw"?'),
        ({"rate": float("nan")}, InvalidInput, "rate=nan"),
        ({"error_limit": -2}, InvalidInput, "error_limit=-2"),
        ({"rows_per_job": -1}, InvalidInput, "rows_per_job=-1"),
        ({"host": "elsewhere"}, RunError, "is a path of host elsewhere, and runs are worked on box"),
    ],
)
def test_what_cannot_be_is_refused_and_takes_nothing_in(
    order: Order, redis_url: str, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as refused:
        order(**changes)
    assert says in str(refused.value)
    assert runs.ls(url=redis_url) == []


def test_an_output_that_exists_is_not_written_over_unasked(order: Order, tmp_path: Path) -> None:
    (tmp_path / "o.csv").write_text("somebody's")
    with pytest.raises(RunError, match="exists, and no run of this input"):
        order()
    assert order(if_exists="overwrite").is_new


def test_without_a_program_it_waits_with_a_warning(redis_url: str, publish: Any, rows: Path, tmp_path: Path) -> None:
    run = runs.submit(str(rows), model=MODEL, output=str(tmp_path / "o.csv"), url=redis_url)
    assert "no program works runs now" in run.warning


def test_a_run_nobody_knows_is_not_attached_to(redis_url: str, publish: Any) -> None:
    with pytest.raises(RunError, match="no run 0123456789ab"):
        runs.attach("0123456789ab", url=redis_url)


def test_it_needs_neither_rq_nor_pyarrow_nor_fsspec() -> None:
    code = "import sys, producer; producer.runs.submit; print({'rq', 'pyarrow', 'fsspec', 'click'} & set(sys.modules))"
    assert producer.runs is runs
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert found.stdout == "set()\n"
