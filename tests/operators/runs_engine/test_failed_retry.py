"""A turn that fails: a retry goes on as one, and what tidies up behind it neither hides its reason nor holds it up."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from broker import runs
from broker.errors import RunError
from operators.runs.data.shelf import Shelf
from operators.runs.data.sink import Sink
from tests.operators.runs_engine.conftest import WHY, Bench
from tests.operators.runs_engine.test_turn import ROWS, require_whole


def full(*args: Any, **named: Any) -> None:
    raise RunError("no space left; free some space, then resume the run")


@pytest.mark.parametrize("step", [(Sink, "write"), (Shelf, "finish")], ids=["before", "while-it-replaces-its-output"])
@pytest.mark.parametrize("how", ["resume", "submit"])
def test_a_retry_that_failed_goes_on_with_its_failed_rows_over_its_own_output(
    bench: Bench, blamed: set[int], step: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: a retry fails, before it wrote a part and with its new output beside the old one
    x = bench.write(ROWS)
    run = bench.submit()
    bench.turn(run)
    blamed.clear()
    runs.ask(bench.link, run, "retry")
    with monkeypatch.context() as patched:
        patched.setattr(*step, full)
        with pytest.raises(RunError, match="no space left"):
            bench.turn(run)
    view = bench.view(run)
    assert (view.state, view.is_retry) == ("failed", True)
    require_whole(bench, x, dict.fromkeys({17, 201}, WHY))
    # when
    runs.ask(bench.link, run, "resume") if how == "resume" else bench.submit()
    # then
    assert bench.turn(run) == f"done: {ROWS} rows, 0 failed"
    require_whole(bench, x)
    assert (bench.view(run).is_retry, bench.left()) == (False, [])


def test_a_failed_retry_is_refused_where_another_run_has_written_its_output_since(
    bench: Bench, blamed: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write(ROWS)
    run = bench.submit()
    bench.turn(run)
    runs.ask(bench.link, run, "retry")
    with monkeypatch.context() as patched:
        patched.setattr(Sink, "write", full)
        with pytest.raises(RunError, match="no space left"):
            bench.turn(run)
    other = bench.submit(if_exists="overwrite", mapping={"keys": ["id"], "inputs": {"x": ["x*"]}})
    bench.turn(other)
    with pytest.raises(RunError, match=rf"run {other} \(done_with_errors\) has written .*out.parquet since"):
        runs.ask(bench.link, run, "resume")


@pytest.mark.parametrize("is_hanging", [True, False])
def test_tidying_up_neither_hides_why_a_turn_failed_nor_holds_it_up(
    bench: Bench, is_hanging: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: the file system is gone, in one way or the other
    bench.write(ROWS)
    run, over = bench.submit(), threading.Event()

    def close(self: Sink) -> None:
        if not is_hanging:
            raise OSError(5, "Input/output error")
        over.wait()

    monkeypatch.setattr("operators.runs.background.TIDY_S", 0.05)
    monkeypatch.setattr(Sink, "write", full)
    monkeypatch.setattr(Sink, "close", close)
    # when, then
    with pytest.raises(RunError, match="no space left"):
        bench.turn(run)
    assert bench.view(run).error.startswith("no space left")
    over.set()
