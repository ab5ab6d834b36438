"""`penstock run submit --wait`: how a run ended is the exit code, and who stops waiting leaves it alone."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from broker import runs
from broker.connection import Link
from tests.operators.runs_cli.conftest import MODEL, Penstock, stands
from tests.wait import wait_until


@pytest.mark.parametrize(
    ("state", "fields", "code", "says"),
    [
        ("done", {}, 0, "done: 250 rows"),
        ("done_with_errors", {"rows_failed": 2}, 2, "done: 250 rows, 2 failed"),
        ("failed", {"error": "no space left"}, 1, "failed: no space left"),
        ("cancelled", {}, 1, "cancelled"),
    ],
)
def test_who_waits_is_told_how_it_ended_by_the_exit_code(
    penstock: Penstock, program: None, link: Link, rows: Path, tmp_path: Path, redis_url: str,
    state: str, fields: dict[str, object], code: int, says: str,
) -> None:  # fmt: skip
    # given: somebody who works the run
    def work() -> None:
        with_own = Link(redis_url)
        with_own.connect()
        (view,) = wait_until(lambda: runs.views(with_own), "there is a run")
        stands(with_own, view.id, rows_total=250, rows_done=250, started_ms=1, ended_ms=2001, state=state, **fields)
        with_own.close()

    worker = threading.Thread(target=work)
    worker.start()
    # when
    found = penstock("run", "submit", rows, "--model", MODEL, "--map", "x=f*", "--output", tmp_path / "o.csv", "--wait")
    worker.join()
    # then
    assert found[0] == code
    assert says in found[1]


def test_who_waits_no_longer_leaves_the_run_alone(
    penstock: Penstock, program: None, link: Link, rows: Path, tmp_path: Path
) -> None:
    code, _, err = penstock(
        "run",
        "submit",
        rows,
        "--model",
        MODEL,
        "--map",
        "x=f*",
        "--output",
        tmp_path / "o.csv",
        "--wait",
        "--timeout",
        "0.1",
    )
    assert code == 1
    assert "did not end within 0.1 s (queued, 0 rows done); it goes on" in err
    assert runs.views(link)[0].state == "queued"


def test_who_is_interrupted_while_waiting_is_told_that_the_run_goes_on(
    penstock: Penstock, program: None, link: Link, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: Ctrl-C
    monkeypatch.setattr("producer.runs.Run.wait_final", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    # when
    code, out, err = penstock(
        "run", "submit", rows, "--model", MODEL, "--map", "x=f*", "--output", tmp_path / "o.csv", "--wait"
    )
    # then
    (view,) = runs.views(link)
    assert (code, out, view.state) == (130, "", "queued")
    assert f"run {view.id} goes on; `penstock run watch {view.id}` follows it again" in err
