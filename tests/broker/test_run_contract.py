"""What stands in Redis about runs: who may work one, what a user may ask, and that nobody writes who lost the lease."""

from __future__ import annotations

from typing import Any

import pytest

from broker import keys, run_lease, runs
from broker.connection import Link
from broker.errors import LeaseLost, RunError
from broker.runs import Request, RowError
from tests.wait import wait_until

ME, OTHER = "box/runs_00.aa", "box/runs_00.bb"


def request(**changes: Any) -> Request:
    return Request(**{"input": "/in.parquet", "output": "/out.parquet", "model": "m"} | changes)


def submitted(link: Link, **changes: Any) -> str:
    return runs.submit(link, request(**changes), "r1", version="1", fingerprint="f")[0].id


# --- submitting -----------------------------------------------------------------------------


def test_the_same_request_is_the_same_run_and_another_mapping_input_version_or_output_another() -> None:
    said = runs.run_id(request(mapping={"a": 1, "b": 2}), "f", "1")
    assert said == runs.run_id(request(mapping={"b": 2, "a": 1}, rate=5.0, user="x", priority="low"), "f", "1")
    others = {
        runs.run_id(request(), "f", "1"), runs.run_id(request(mapping={"a": 1, "b": 2}), "g", "1"),
        runs.run_id(request(mapping={"a": 1, "b": 2}), "f", "2"),
        runs.run_id(request(mapping={"a": 1, "b": 2}, output="/o"), "f", "1"),
    }  # fmt: skip
    assert said not in others
    assert len(others) == 4
    assert len(said) == 12


def test_a_submitted_run_is_seen_and_the_same_again_attaches_to_it(link: Link) -> None:
    view, is_new = runs.submit(link, request(user="me"), "r1", version="3", fingerprint="f")
    assert is_new
    assert (view.state, view.version, view.fingerprint, view.request.user) == ("queued", "3", "f", "me")
    assert (view.rows_total, view.rows_done, view.eta_s, view.owner) == (None, 0, None, "")
    again, is_new = runs.submit(link, request(rate=7.0), "r1", version="3", fingerprint="f")
    assert not is_new
    assert (again.id, again.request.rate, again.created_ms) == ("r1", 7.0, view.created_ms)
    assert [one.id for one in runs.views(link)] == ["r1"]


def test_a_run_that_exists_is_refused_where_that_was_asked_for(link: Link) -> None:
    submitted(link)
    with pytest.raises(RunError, match=r"run r1 exists already and is queued; .*--if-exists"):
        runs.submit(link, request(), "r1", if_exists="fail")


def test_a_run_begins_anew_when_it_is_to_be_overwritten_but_not_while_it_is_worked(link: Link) -> None:
    submitted(link)
    run_lease.take(link, "r1", ME)
    run_lease.note(link, "r1", ME, {"rows_done": 5, "plan": "p"})
    with pytest.raises(RunError, match=r"is being worked.*penstock run cancel r1"):
        runs.submit(link, request(), "r1", if_exists="overwrite")
    run_lease.note(link, "r1", ME, leave="done", keep_ms=60_000)
    view, is_new = runs.submit(link, request(), "r1", if_exists="overwrite")
    assert (is_new, view.state, view.rows_done, view.is_fresh) == (True, "queued", 0, True)
    kept = run_lease.kept(link, "r1")
    assert (kept.plan, kept.is_replacing) == ("", True)
    assert link.call("PTTL", keys.run("r1")) == -1


def test_a_failed_run_that_is_submitted_again_goes_on_and_a_cancelled_one_begins_anew(link: Link) -> None:
    for state, is_fresh in (("failed", False), ("cancelled", True)):
        runs.submit(link, request(output=f"/{state}"), state)
        run_lease.take(link, state, ME)
        run_lease.note(link, state, ME, {"is_fresh": "", "error": "no space"}, leave=state, keep_ms=60_000)
        view, is_new = runs.submit(link, request(output=f"/{state}", error_limit=9), state)
        assert (is_new, view.state, view.is_fresh, view.error) == (False, "queued", is_fresh, "")
        assert view.request.error_limit == 9
        assert link.call("PTTL", keys.run(state)) == -1


def test_a_full_redis_refuses_new_runs_and_takes_notes_of_those_under_way(link: Link) -> None:
    submitted(link)
    link.call("CONFIG", "SET", "maxmemory", 1)
    assert "OOM" in str(link.call_all([("SET", "probe", "x")])[0])
    with pytest.raises(RunError, match="Redis is full"):
        runs.submit(link, request(output="/2"), "r2")
    assert run_lease.take(link, "r1", ME) == 1
    run_lease.note(link, "r1", ME, {"rows_done": 5}, failed=[RowError(1, {}, "no")])
    run_lease.beat(link, "box", "runs_00", pid=1, run="r1")
    assert run_lease.note(link, "r1", ME, leave="done", keep_ms=60_000).state == "done"


# --- the lease ------------------------------------------------------------------------------


def test_one_program_has_a_run_at_a_time_and_only_it_writes(link: Link) -> None:
    submitted(link)
    assert run_lease.take(link, "r1", ME) == 1
    assert run_lease.take(link, "r1", OTHER) == 0
    with pytest.raises(LeaseLost):
        run_lease.note(link, "r1", OTHER, {"rows_done": 9}, failed=[RowError(1, {}, "no")])
    assert runs.view(link, "r1").rows_done == 0
    assert runs.errors(link, "r1") == []
    run_lease.note(link, "r1", ME, {"rows_done": 3})
    assert runs.view(link, "r1").rows_done == 3


def test_who_slept_past_its_lease_writes_nothing_once_another_has_the_run(link: Link) -> None:
    submitted(link)
    run_lease.take(link, "r1", ME, lease_ms=1)
    wait_until(lambda: run_lease.is_held(link, ["r1"]) == [False], "the lease ends")
    assert run_lease.take(link, "r1", OTHER) == 2
    for leave in ("", "done"):
        with pytest.raises(LeaseLost, match="run r1 is worked by another"):
            run_lease.note(link, "r1", ME, {"rows_done": 9}, leave=leave)
    view = runs.view(link, "r1")
    assert (view.owner, view.rows_done, view.state) == (OTHER, 0, "running")


def test_a_lease_that_lapsed_is_its_owners_again_where_nobody_came_and_nobody_asked(link: Link) -> None:
    submitted(link)
    run_lease.take(link, "r1", ME, lease_ms=1)
    wait_until(lambda: run_lease.is_held(link, ["r1"]) == [False], "the lease ends")
    run_lease.note(link, "r1", ME, {"rows_done": 4})
    assert run_lease.is_held(link, ["r1"]) == [True]
    # when: it lapses again, and a user pauses the run meanwhile
    run_lease.note(link, "r1", ME, lease_ms=1)
    wait_until(lambda: run_lease.is_held(link, ["r1"]) == [False], "the lease ends")
    assert runs.ask(link, "r1", "pause").state == "paused"
    with pytest.raises(LeaseLost):
        run_lease.note(link, "r1", ME, {"rows_done": 9})


def test_a_run_that_is_left_is_free_at_once_and_forgotten_in_time_when_it_ended(link: Link) -> None:
    submitted(link)
    run_lease.take(link, "r1", ME)
    assert run_lease.note(link, "r1", ME, leave="queued") == ("", "queued")
    assert run_lease.take(link, "r1", OTHER) == 2
    run_lease.note(link, "r1", OTHER, {"error": "x"}, failed=[RowError(1, {}, "no")], leave="failed", keep_ms=40_000)
    view = runs.view(link, "r1")
    assert (view.state, view.error, view.owner, view.ended_ms > 0) == ("failed", "x", "", True)
    for key in (keys.run("r1"), keys.run("r1", "_errors")):
        assert 0 < link.call("PTTL", key) <= 40_000
    assert run_lease.take(link, "r1", ME) == 0, "it has ended"


def test_runs_whose_time_is_over_leave_the_list(link: Link) -> None:
    submitted(link)
    runs.submit(link, request(output="/2"), "r2")
    link.call("DEL", keys.run("r1"))
    assert [one.id for one in runs.views(link)] == ["r2"]
    assert run_lease.prune(link) == 1
    assert link.call("ZRANGE", keys.runs(), 0, -1) == [b"r2"]


# --- what users ask -------------------------------------------------------------------------


def test_what_is_asked_of_a_run_nobody_works_is_done_at_once(link: Link) -> None:
    submitted(link)
    assert runs.ask(link, "r1", "pause").state == "paused"
    assert run_lease.take(link, "r1", ME) == 0
    assert runs.ask(link, "r1", "resume").state == "queued"
    view = runs.ask(link, "r1", "cancel")
    assert (view.state, view.asked) == ("cancelled", "discard")
    assert run_lease.take(link, "r1", ME) == 0
    assert run_lease.take(link, "r1", ME, is_tidying=True) > 0, "its parts are to be thrown away"
    run_lease.note(link, "r1", ME, leave="cancelled", keep_ms=1000)
    assert run_lease.take(link, "r1", ME, is_tidying=True) == 0


@pytest.mark.parametrize(("what", "state"), [("pause", "paused"), ("cancel", "cancelled")])
def test_what_is_asked_of_a_run_under_way_waits_for_its_worker(link: Link, what: Any, state: str) -> None:
    submitted(link)
    run_lease.take(link, "r1", ME)
    view = runs.ask(link, "r1", what)
    assert (view.state, view.asked) == ("running", what)
    assert run_lease.note(link, "r1", ME, {}).asked == what
    assert run_lease.note(link, "r1", ME, leave="queued", keep_ms=1000).state == state
    assert runs.view(link, "r1").state == state


def test_a_pause_is_taken_back_before_the_worker_saw_it(link: Link) -> None:
    submitted(link)
    run_lease.take(link, "r1", ME)
    runs.ask(link, "r1", "pause")
    assert runs.ask(link, "r1", "resume").asked == ""
    assert run_lease.note(link, "r1", ME, {}).asked == ""


def test_rows_are_scored_again_only_of_a_run_that_went_through_with_errors(link: Link) -> None:
    submitted(link)
    with pytest.raises(RunError, match=r"run r1 is queued: .*wait for its end"):
        runs.ask(link, "r1", "retry")
    run_lease.take(link, "r1", ME)
    round_before = run_lease.kept(link, "r1").round
    run_lease.note(link, "r1", ME, {"rows_failed": 2}, leave="done_with_errors", keep_ms=1000)
    view = runs.ask(link, "r1", "retry")
    assert (view.state, view.is_retry, view.ended_ms) == ("queued", True, 0)
    assert run_lease.kept(link, "r1").round != round_before, "its jobs are other ones"
    run_lease.take(link, "r1", ME)
    run_lease.note(link, "r1", ME, {"rows_failed": 0}, leave="done", keep_ms=1000)
    with pytest.raises(RunError, match="no failed rows"):
        runs.ask(link, "r1", "retry")


def test_what_cannot_be_asked_says_what_can(link: Link) -> None:
    with pytest.raises(RunError, match="no run r9; `penstock run ls`"):
        runs.ask(link, "r9", "pause")
    submitted(link)
    run_lease.take(link, "r1", ME)
    run_lease.note(link, "r1", ME, leave="failed", keep_ms=1000)
    with pytest.raises(RunError, match=r"has ended .failed. and cannot cancel; `penstock run resume"):
        runs.ask(link, "r1", "cancel")
    assert runs.ask(link, "r1", "resume").state == "queued"


# --- one output, one run --------------------------------------------------------------------


def ended(link: Link, run: str, state: str, output: str = "/out.parquet", **how: Any) -> None:
    """A run that was worked, and how it ended, a moment before what comes next."""
    runs.submit(link, request(output=output), run, **how)
    run_lease.take(link, run, ME)
    run_lease.note(link, run, ME, {"rows_failed": 2}, leave=state, keep_ms=60_000)
    wait_until(lambda: (view := runs.view(link, run)).at_ms > view.ended_ms, "the clock goes on")


@pytest.mark.parametrize(("what", "state"), [("resume", "failed"), ("retry", "done_with_errors")])
def test_a_run_that_ended_does_not_go_on_while_another_is_to_write_its_output(
    link: Link, what: Any, state: str
) -> None:
    # given
    ended(link, "r1", state)
    before = link.call("HGETALL", keys.run("r1"))
    # when another run is submitted for its output, and worked, paused
    runs.submit(link, request(input="/other", output="/out.parquet/"), "r2", if_exists="overwrite")
    told = (
        rf"^run r1 cannot {what}: run r2 \({{}}\) writes to /out.parquet now; `penstock run cancel r2`, or submit with"
    )
    with pytest.raises(RunError, match=told.format("queued")):
        runs.ask(link, "r1", what)
    run_lease.take(link, "r2", OTHER)
    with pytest.raises(RunError, match=told.format("running")):
        runs.ask(link, "r1", what)
    run_lease.note(link, "r2", OTHER, leave="paused")
    with pytest.raises(RunError, match=told.format("paused")):
        runs.ask(link, "r1", what)
    # then nothing was changed, and it goes on once the other has let go
    assert link.call("HGETALL", keys.run("r1")) == before
    assert 0 < link.call("PTTL", keys.run("r1")) <= 60_000
    runs.ask(link, "r2", "cancel")
    assert runs.ask(link, "r1", what).state == "queued"


@pytest.mark.parametrize("how", ["done", "done_with_errors"])
def test_a_run_that_would_replace_what_another_has_written_since_is_refused(link: Link, how: str) -> None:
    # given: two that replace what stands there, and one that would refuse to
    ended(link, "r1", "done_with_errors")
    ended(link, "r2", "failed", if_exists="overwrite")
    ended(link, "r3", "failed", output="/elsewhere")
    # when
    ended(link, "r4", how, if_exists="overwrite")
    # then
    told = (
        rf"run r4 \({how}\) has written /out.parquet since; submit with --if-exists overwrite, or with another output"
    )
    for run, what in (("r1", "retry"), ("r2", "resume")):
        with pytest.raises(RunError, match=f"^run {run} cannot {what}: {told}$"):
            runs.ask(link, run, what)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=f"^{told}$"):
        runs.submit(link, request(), "r2")
    assert runs.submit(link, request(), "r2", if_exists="overwrite")[1], "the mend it names"
    assert runs.ask(link, "r3", "resume").state == "queued"


def test_what_was_written_before_a_run_ended_is_its_own_to_replace(link: Link) -> None:
    ended(link, "r1", "done")
    ended(link, "r2", "done_with_errors", if_exists="overwrite")
    assert runs.ask(link, "r2", "retry").state == "queued"


def test_a_run_that_ended_and_wrote_nothing_holds_no_output(link: Link) -> None:
    ended(link, "r1", "done_with_errors")
    for run, state in (("r2", "failed"), ("r3", "cancelled")):
        ended(link, run, state, if_exists="overwrite")
    assert runs.ask(link, "r1", "retry").state == "queued"


@pytest.mark.parametrize("state", ["done", "done_with_errors"])
def test_nobody_attaches_to_a_run_that_is_done_once_another_has_written_its_output(link: Link, state: str) -> None:
    # given
    ended(link, "r1", state)
    assert runs.submit(link, request(), "r1")[1] is False, "its rows stand there"
    ended(link, "r2", "done", if_exists="overwrite")
    before = link.call("HGETALL", keys.run("r1"))
    # when, then
    told = (
        r"^run r2 \(done\) has written /out.parquet since; submit with --if-exists overwrite, or with another output$"
    )
    with pytest.raises(RunError, match=told):
        runs.submit(link, request(), "r1")
    assert link.call("HGETALL", keys.run("r1")) == before
    assert runs.submit(link, request(), "r2")[1] is False, "the other's rows stand there"
    # and: anew, its rows stand there again
    ended(link, "r1", state, if_exists="overwrite")
    assert runs.submit(link, request(), "r1")[1] is False
    with pytest.raises(RunError, match=r"run r1 .* has written /out.parquet since"):
        runs.submit(link, request(), "r2")


def test_nobody_attaches_to_a_run_that_is_done_while_another_is_to_write_its_output(link: Link) -> None:
    ended(link, "r1", "done")
    runs.submit(link, request(), "r2", if_exists="overwrite")
    with pytest.raises(RunError, match=r"run r2 \(queued\) writes to /out.parquet already"):
        runs.submit(link, request(), "r1")


def test_a_retry_that_is_cancelled_and_submitted_again_begins_anew(link: Link) -> None:
    submitted(link)
    run_lease.take(link, "r1", ME)
    run_lease.note(
        link, "r1", ME, {"plan": "p", "is_assembled": "1", "is_fresh": ""}, leave="done_with_errors", keep_ms=60_000
    )
    runs.ask(link, "r1", "retry")
    runs.ask(link, "r1", "cancel")
    view, _ = runs.submit(link, request(), "r1")
    assert (view.state, view.is_fresh, view.is_retry) == ("queued", True, False)
    kept = run_lease.kept(link, "r1")
    assert (kept.plan, kept.is_assembled) == ("", False), "its turn would say that it is done"


# --- rows and programs ----------------------------------------------------------------------


def test_rows_that_failed_are_kept_once_in_order_and_the_first_of_too_many(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(link)
    run_lease.take(link, "r1", ME)
    first = [RowError(3, {"id": 30}, "not a number"), RowError(8, {"id": 80}, "x" * 2000)]
    for _ in range(2):  # a worker that was killed in between says it again
        run_lease.note(link, "r1", ME, failed=first)
    run_lease.note(link, "r1", ME, failed=[RowError(9, {}, "no")])
    found = runs.errors(link, "r1")
    assert [(one.row, one.keys) for one in found] == [(3, {"id": 30}), (8, {"id": 80}), (9, {})]
    assert len(found[1].error) == 500
    monkeypatch.setattr(keys, "RUN_ERRORS_CAP", 4)
    run_lease.note(link, "r1", ME, failed=[RowError(row, {}, "no") for row in (10, 11, 12)])
    assert [one.row for one in runs.errors(link, "r1")] == [3, 8, 9, 10]
    run_lease.note(link, "r1", ME, forgets_errors=True)
    assert runs.errors(link, "r1") == []


def test_a_run_that_does_no_rows_shows_for_how_long(link: Link) -> None:
    submitted(link)
    assert runs.view(link, "r1").quiet_s == 0
    run_lease.take(link, "r1", ME)
    began = runs.view(link, "r1").progressed_ms
    wait_until(lambda: runs.view(link, "r1").quiet_s > 0.02, "quiet for a while")
    run_lease.note(link, "r1", ME, {"doing": "reads its input"})
    assert runs.view(link, "r1").progressed_ms == began
    run_lease.note(link, "r1", ME, is_progress=True)
    assert runs.view(link, "r1").progressed_ms > began


def test_programs_are_seen_while_they_beat(link: Link) -> None:
    assert runs.beats(link) == []
    run_lease.beat(link, "box", "runs_00", pid=11, run="")
    run_lease.beat(link, "box", "runs_01", pid=12, run="r1")
    run_lease.beat(link, "far", "runs_00", pid=13, run="")
    assert {(one.host, one.name, one.pid, one.run) for one in runs.beats(link)} == {
        ("box", "runs_00", 11, ""), ("box", "runs_01", 12, "r1"), ("far", "runs_00", 13, ""),
    }  # fmt: skip
