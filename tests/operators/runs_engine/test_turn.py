"""A run from its input to its output, in one turn or in many: rows out are rows in, each once, whoever came in between."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np
import pytest

from broker import keys, run_lease, runs
from broker.errors import JobCancelled, ResultExpired, RunError
from operators.runs import turn
from operators.runs.data.sink import Sink
from producer import Handle
from tests.operators.runs_engine.conftest import WHY, Bench

ROWS = 330  # seven parts, the last one short


def require_whole(bench: Bench, x: np.ndarray[Any, Any], failed: dict[int, str] | None = None) -> None:
    """Each row once and in order, with twice its values or with the error it should have."""
    table = bench.read()
    assert table["id"].to_pylist() == list(range(len(x)))
    for row, (y, error) in enumerate(zip(table["y"].to_pylist(), table["error"].to_pylist(), strict=True)):
        if failed and row in failed:
            assert y is None, row
            assert failed[row] in error, row
        else:
            assert error is None, row
            assert y == (2 * x[row]).tolist(), row


def test_a_run_scores_every_row_into_one_file_and_leaves_nothing_else(bench: Bench) -> None:
    x = bench.write(ROWS)
    run = bench.submit()
    assert bench.turn(run) == f"done: {ROWS} rows, 0 failed"
    view = bench.view(run)
    assert (view.state, view.rows_total, view.rows_done, view.rows_failed) == ("done", ROWS, ROWS, 0)
    assert (view.version, bool(view.fingerprint), view.rows_per_s > 0) == ("1", True, True)
    assert view.ended_ms >= view.started_ms > 0
    assert (view.doing, view.owner, view.eta_s) == ("", "", None)
    require_whole(bench, x)
    assert bench.left() == []
    assert bench.told[-1]["state"] == "done"
    assert any({"rows_done", "rows_failed", "rows_per_s", "eta_s"} <= one.keys() for one in bench.told), (
        "for RQ's tools"
    )
    assert set(bench.read()["model_version"].to_pylist()) == {"1"}


def test_turns_that_are_broken_off_anywhere_make_the_same_output(bench: Bench) -> None:
    # given
    x = bench.write(ROWS)
    run = bench.submit(rate=2000.0)
    # when: each program is told to end at one of its first looks
    for looks in itertools.count(1):
        count = itertools.count()
        said = bench.turn(run, stop=lambda count=count, looks=looks: next(count) >= looks)  # type: ignore[misc]
        if not said.startswith("queued"):
            break
        assert "the program ends" in said
    # then
    assert looks > 2, "one turn did it all"
    assert bench.view(run).state == "done"
    require_whole(bench, x)


class Killed(BaseException):
    """The program ends here, without a word more."""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("part", [0, 3, 6])
def test_a_program_killed_around_a_part_is_followed_by_one_that_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, part: int, when: str
) -> None:
    # given
    x = bench.write(ROWS)
    run = bench.submit()
    written: list[int] = []
    real = Sink.write

    def write(self: Sink, index: int, table: Any, *, first_row: int) -> Any:
        if index == part and when == "before" and part not in written[:-1]:
            written.append(index)
            raise Killed
        written.append(index)
        note = real(self, index, table, first_row=first_row)
        if index == part and when == "after":
            raise Killed
        return note

    monkeypatch.setattr(Sink, "write", write)
    with pytest.raises(Killed):
        bench.turn(run)
    # then: the lease still stands, so nobody else may work it
    assert bench.view(run).state == "running"
    assert "nothing to do" in bench.turn(run)
    # when
    link, owner = bench.link, bench.view(run).owner
    monkeypatch.setattr(Sink, "write", real)
    run_lease.note(link, run, owner, leave="queued")  # what the next program does, holding the lock of the name
    before = len(written)
    assert bench.turn(run) == f"done: {ROWS} rows, 0 failed"
    # then
    assert before <= part + 1
    require_whole(bench, x)


def test_a_program_killed_between_its_output_and_its_last_word_is_followed_by_one_that_says_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for broken in ("assemble", "discard"):
        x = bench.write(ROWS)
        run = bench.submit(if_exists="overwrite")
        real = getattr(Sink, broken)

        def then_die(self: Sink, *args: Any, real: Any = real, run: str = run, **given: Any) -> None:
            real(self, *args, **given)
            if bench.output.exists() and not bench.view(run).is_fresh:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Sink, broken, then_die)
            with pytest.raises(Killed):
                bench.turn(run)
        run_lease.note(bench.link, run, bench.view(run).owner, leave="queued")
        assert bench.turn(run) == f"done: {ROWS} rows, 0 failed", broken
        require_whole(bench, x)


def test_a_program_that_lost_its_lease_writes_no_part_and_says_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: while the third part is made, the lease ends and another takes it
    bench.write(ROWS)
    run = bench.submit()
    real = Sink.write
    parts: list[int] = []

    def write(self: Sink, index: int, table: Any, *, first_row: int) -> Any:
        parts.append(index)
        note = real(self, index, table, first_row=first_row)
        if index == 1:
            while not run_lease.take(bench.link, run, "far/runs_00.z"):  # the owner may renew it once more in between
                bench.link.call("DEL", keys.run(run, "_lease"))
            monkeypatch.setattr("operators.runs.lease.SURE_S", 0.0)  # and so long ago that its clock tells it
        return note

    monkeypatch.setattr(Sink, "write", write)
    # when
    said = bench.turn(run)
    # then
    assert said == "lost to another program"
    assert parts == [0, 1]
    view = bench.view(run)
    assert (view.state, view.owner, view.error) == ("running", "far/runs_00.z", "")
    assert not bench.output.exists()


def test_rows_that_fail_are_found_by_halves_and_only_they_fail(bench: Bench) -> None:
    # given: two rows at which the model raises, and a column with a hole
    x = bench.write(ROWS)
    x0 = x[:, 0].tolist()
    x0[17], x0[201], x0[330 - 1] = 13.0, 13.0, None
    x = bench.write(ROWS, x0=x0)
    run = bench.submit()
    # when
    assert bench.turn(run) == f"done_with_errors: {ROWS} rows, 3 failed"
    # then
    require_whole(bench, x, {17: "13 is not to my taste", 201: "13 is not to my taste", 329: "x0"})
    view = bench.view(run)
    assert (view.state, view.rows_done, view.rows_failed) == ("done_with_errors", ROWS, 3)
    found = runs.errors(bench.link, run)
    assert [(one.row, one.keys) for one in found] == [(17, {"id": 17}), (201, {"id": 201}), (329, {"id": 329})]
    assert found[0].error.startswith("ValueError") or "13 is not to my taste" in found[0].error


def test_failed_rows_alone_are_scored_again(bench: Bench, blamed: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    # given: the pool fails two rows
    x = bench.write(ROWS)
    run = bench.submit()
    bench.turn(run)
    require_whole(bench, x, dict.fromkeys(blamed, WHY))
    # when: one of them goes well now
    blamed.discard(201)
    seen: list[int] = []
    monkeypatch.setattr(turn.Courier, "_settled", _counted(turn.Courier._settled, seen))
    assert runs.ask(bench.link, run, "retry").state == "queued"
    assert bench.turn(run) == f"done_with_errors: {ROWS} rows, 1 failed"
    # then
    assert seen == [1, 1], "no other row went through the pool"
    require_whole(bench, x, {17: WHY})
    assert [one.row for one in runs.errors(bench.link, run)] == [17]
    # when: the last one does
    blamed.clear()
    runs.ask(bench.link, run, "retry")
    assert bench.turn(run) == f"done: {ROWS} rows, 0 failed"
    # then
    require_whole(bench, x)
    assert (bench.view(run).state, runs.errors(bench.link, run), bench.left()) == ("done", [], [])


def _counted(real: Any, seen: list[int]) -> Any:
    def settled(self: Any, piece: Any) -> None:
        seen.append(piece.count)
        real(self, piece)

    return settled


def test_too_many_failed_rows_end_the_run_and_a_higher_limit_lets_it_go_on(bench: Bench) -> None:
    x = bench.write(ROWS)
    x0 = x[:, 0].copy()
    bad = {60, 61, 160}
    x0[sorted(bad)] = 13
    x = bench.write(ROWS, x0=x0)
    run = bench.submit(error_limit=1)
    with pytest.raises(RunError, match=r"2 rows failed, more than its error_limit of 1.*row 60.*13 is not to my taste"):
        bench.turn(run)
    view = bench.view(run)
    assert view.state == "failed"
    assert "error_limit of 1" in view.error
    assert not bench.output.exists()
    # when
    bench.submit(error_limit=5)
    # then
    assert bench.turn(run) == f"done_with_errors: {ROWS} rows, 3 failed"
    require_whole(bench, x, dict.fromkeys(bad, "13 is not to my taste"))
    assert [one.row for one in runs.errors(bench.link, run)] == sorted(bad)


def test_a_run_pauses_and_resumes_and_is_cancelled_with_all_it_wrote(bench: Bench) -> None:
    x = bench.write(ROWS)
    run = bench.submit(rate=1000.0)
    asked = iter(["pause", "cancel"])

    def ask_at_the_second_part() -> bool:
        if bench.view(run).rows_done >= 100 and not bench.view(run).asked:
            runs.ask(bench.link, run, next(asked))  # type: ignore[arg-type]
        return False

    # when
    assert bench.turn(run, stop=ask_at_the_second_part).startswith("paused")
    view = bench.view(run)
    assert (view.state, view.asked) == ("paused", "")
    assert 100 <= view.rows_done < ROWS
    assert "nothing to do" in bench.turn(run)
    runs.ask(bench.link, run, "resume")
    assert bench.turn(run, stop=ask_at_the_second_part).startswith("cancelled")
    # then: its parts go with the next turn
    assert bench.view(run).asked == "discard"
    assert bench.turn(run).startswith("cancelled")
    assert (bench.left(), bench.output.exists(), bench.view(run).asked) == ([], False, "")
    # when: it is submitted again
    bench.submit()
    assert bench.turn(run).startswith("done")
    require_whole(bench, x)


def test_a_new_version_of_the_model_pauses_the_run_and_none_of_its_answers_is_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: from row 120 on, slots answer as version 2
    x = bench.write(ROWS)
    run = bench.submit()
    real = turn.Courier._take

    def take(self: Any, piece: Any, result: Any) -> None:
        newer = piece.scoring.row(int(piece.rows[0])) >= 120
        real(self, piece, msgspec.structs.replace(result, version="2") if newer else result)

    with monkeypatch.context() as patch:
        patch.setattr(turn.Courier, "_take", take)
        bench.turn(run)
    # then
    view = bench.view(run)
    assert view.state == "paused"
    assert (
        f"now answers as version 2, and this run is on 1; serve that version again and `penstock run resume {run}`"
        in view.error
    )
    assert view.rows_done <= 100
    # when: the model goes back
    runs.ask(bench.link, run, "resume")
    assert bench.turn(run).startswith("done")
    require_whole(bench, x)


def test_a_run_submitted_for_another_version_than_is_served_is_paused_at_once(bench: Bench) -> None:
    bench.write(10)
    request = runs.view(bench.link, bench.submit(output=str(bench.folder / "other.parquet"))).request
    request = msgspec.structs.replace(request, output=str(bench.output))
    run = runs.submit(bench.link, request, runs.run_id(request, "", "9"), version="9")[0].id
    bench.turn(run)
    view = bench.view(run)
    assert view.state == "paused"
    assert "is now version 1, and this run is on 9" in view.error


def test_a_run_gives_way_after_its_slice_and_goes_on_later(bench: Bench) -> None:
    x = bench.write(ROWS)
    run = bench.submit(rate=1500.0)
    bench.waiting = ("normal",)
    turns = 0
    while (said := bench.turn(run, runs={"slice_s": 0.1})).startswith("queued"):
        assert "others go on" in said
        turns += 1
    assert turns >= 1
    require_whole(bench, x)


def test_what_is_wrong_with_a_run_fails_it_in_one_line(bench: Bench) -> None:
    def said_of(**changes: Any) -> str:
        run = bench.submit(**changes)
        with pytest.raises(RunError) as caught:
            bench.turn(run)
        view = bench.view(run)
        assert (view.state, view.error) == ("failed", str(caught.value))
        assert "\n" not in view.error
        return view.error

    assert "in.parquet" in said_of()  # it is not there
    bench.write(20)
    assert "x9" in said_of(mapping={"inputs": {"x": ["x0", "x1", "x2", "x9"]}})
    assert "no model named 'none' is published" in said_of(model="none")
    bench.output.write_text("mine")
    assert "exists already" in said_of(rows_per_job=3, mapping={"keys": ["id"], "inputs": {"x": ["x*"]}})
    assert bench.output.read_text() == "mine"


def test_an_input_that_changed_since_it_was_submitted_fails_the_run(bench: Bench) -> None:
    bench.write(ROWS)
    run = bench.submit(rate=1000.0)
    bench.turn(run, stop=lambda: bench.view(run).rows_done >= 100)
    bench.write(ROWS + 1)
    with pytest.raises(RunError, match="is not what it was when the run was submitted"):
        bench.turn(run)


def test_jobs_of_a_program_that_died_are_the_same_jobs_for_its_successor(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: a program that submits the whole run and dies before it reads an answer
    x = bench.write(ROWS)
    run = bench.submit()

    def die(self: Any, timeout_s: float) -> bool:
        if self._pieces.peek() is None and len(self._out) >= 5:
            raise Killed
        return False

    with monkeypatch.context() as patch:
        patch.setattr(turn.Courier, "fetch", die)
        patch.setattr(turn.Courier, "let_go", lambda self: None)
        with pytest.raises(Killed):
            bench.turn(run)
    submitted = int(bench.link.call("HGET", keys.counters("raising"), "submitted"))
    run_lease.note(bench.link, run, bench.view(run).owner, leave="queued")
    # when
    assert bench.turn(run).startswith("done")
    # then
    again = int(bench.link.call("HGET", keys.counters("raising"), "submitted")) - submitted
    assert again <= ROWS // 10 - 5, "what was queued was not queued twice"
    require_whole(bench, x)


def test_jobs_whose_outcome_is_lost_are_submitted_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    x = bench.write(60)
    run = bench.submit()
    real, lost = Handle.result, set()

    def result(self: Handle, timeout: float | None = None) -> Any:
        found = real(self, timeout)
        if len(lost) < 8 and self.id not in lost:
            lost.add(self.id)
            raise (ResultExpired if len(lost) % 2 else JobCancelled)("it is gone")
        return found

    monkeypatch.setattr(Handle, "result", result)
    assert bench.turn(run) == "done: 60 rows, 0 failed"
    assert len(lost) == 8
    require_whole(bench, x)


def test_a_file_that_is_put_in_the_way_meanwhile_is_not_overwritten(bench: Bench) -> None:
    bench.write(ROWS)
    run = bench.submit(rate=1000.0)
    bench.turn(run, stop=lambda: bench.view(run).rows_done >= 100)
    bench.output.write_text("mine")
    with pytest.raises(RunError, match="exists"):
        bench.turn(run)
    assert bench.output.read_text() == "mine"
    # when
    bench.output.unlink()
    runs.ask(bench.link, run, "resume")
    assert bench.turn(run).startswith("done")


def test_a_run_may_write_over_what_is_there_where_that_was_asked_for(bench: Bench) -> None:
    x = bench.write(ROWS)
    bench.output.write_text("old")
    run = bench.submit(if_exists="overwrite")
    assert bench.turn(run).startswith("done")
    require_whole(bench, x)
