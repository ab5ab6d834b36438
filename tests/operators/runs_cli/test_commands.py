"""`penstock run`: what is seen of runs, and what is asked of them."""

from __future__ import annotations

import io
import json
import sys

import pytest

from broker import audit, keys, runs
from broker.connection import Link
from broker.runs import Request
from operators.runs import texts
from operators.runs.progress_lines import ProgressLines
from tests.operators.runs_cli.conftest import MODEL, Penstock, stands


def make(link: Link, name: str = "one", **fields: object) -> str:
    """A run, as if it stood so."""
    request = Request(
        input=f"/in/{name}.parquet", output=f"/out/{name}.parquet", model=MODEL, mapping={"inputs": {"x": ["f*"]}}
    )
    id = runs.run_id(request, "print", "1")
    runs.submit(link, request, id, version="1", fingerprint="print")
    if fields:
        stands(link, id, **fields)
    return id


def view(link: Link, name: str = "one", **fields: object) -> runs.View:
    return runs.view(link, make(link, name, **fields))


def test_runs_are_listed_newest_first_with_how_far_they_are(penstock: Penstock, link: Link) -> None:
    # given
    first = make(
        link, state="running", rows_total=2_000_000, rows_done=500_000, rows_per_s=1234.5, eta_s=90, rows_failed=3
    )
    link.call("ZADD", keys.runs(), 1, first)
    second = make(link, "two")
    # when
    code, out, _ = penstock("run", "ls")
    # then
    assert code == 0
    head, one, other = out.splitlines()
    assert head.split()[:3] == ["RUN", "STATE", "MODEL"]
    assert one.startswith(f"{second}  queued")
    for part in (first, "running", "25 %", "2 000 000", "1 234", "90.0 s", "/out/one.parquet"):
        assert part in other
    # and
    assert penstock("run")[1].splitlines()[0].split() == head.split()
    assert [one["id"] for one in json.loads(penstock("run", "ls", "--json", "--limit", "1")[1])] == [second]


def test_no_runs_says_how_to_begin_one(penstock: Penstock) -> None:
    assert penstock("run", "ls") == (0, "no runs; `penstock run submit` begins one\n", "")


def test_one_is_shown_in_full_with_what_to_do_next(penstock: Penstock, link: Link) -> None:
    id = make(link, state="failed", error="no space left on /out", rows_done=5, started_ms=1, ended_ms=61_001)
    code, out, _ = penstock("run", "show", id)
    assert code == 0
    for part in (
        "state       failed",
        "double version 1",
        "--map x=f*",
        "no space left on /out",
        f"penstock run resume {id}",
        "61.0 s",
    ):
        assert part in out
    shown = json.loads(penstock("run", "show", id, "--json")[1])
    assert (shown["state"], shown["request"]["model"]) == ("failed", MODEL)


@pytest.mark.parametrize("command", ["show", "watch", "pause", "resume", "cancel", "retry", "errors"])
def test_a_run_that_nobody_knows_is_one_line(penstock: Penstock, command: str) -> None:
    code, out, err = penstock("run", command, "0123456789ab")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "no run 0123456789ab; `penstock run ls` lists those there are" in err


def test_one_is_paused_goes_on_and_the_audit_says_who_and_why(penstock: Penstock, link: Link) -> None:
    id = make(link)
    assert penstock("run", "pause", id, "--reason", "quarter end") == (0, f"run {id} is paused\n", "")
    assert penstock("run", "resume", id) == (0, f"run {id} is queued\n", "")
    assert [(act.command, act.target, act.reason) for act in audit.acts(link)] == [
        ("run resume", id, ""),
        ("run pause", id, "quarter end"),
    ]


def test_a_run_that_is_worked_is_told_to_be_pausing(penstock: Penstock, link: Link) -> None:
    id = make(link, state="running")
    link.call("SET", keys.run(id, "_lease"), "box/runs_00.1", "PX", 60_000)
    assert penstock("run", "pause", id) == (0, f"run {id} is running, pausing\n", "")


def test_cancelling_asks_first_and_needs_yes_where_nobody_can_answer(
    penstock: Penstock, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    id = make(link, rows_done=5)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    # then
    code, _, err = penstock("run", "cancel", id)
    assert code == 2
    assert "--yes" in err
    assert runs.view(link, id).state == "queued"
    # when
    assert penstock("run", "cancel", id, "--yes") == (0, f"run {id} is cancelled\n", "")
    # then: what has ended is not asked about
    code, _, err = penstock("run", "cancel", id)
    assert code == 1
    assert f"run {id} has ended (cancelled)" in err


def test_failed_rows_are_listed_with_keys_and_reasons(penstock: Penstock, link: Link) -> None:
    # given
    id = make(link, state="done_with_errors", rows_failed=3)
    for row, why in ((4, "x: \x1b[31mabc is no number"), (9, "null")):
        link.call("XADD", keys.run(id, "_errors"), f"{row + 1}-0", "keys", json.dumps({"id": row}), "why", why)
    # when
    code, out, err = penstock("run", "errors", id)
    # then
    assert code == 0
    assert out.splitlines()[1:] == ["  4  id=4  x: [31mabc is no number", "  9  id=9  null"]
    assert err == "1 more; --limit shows more, the output's `error` column all\n"
    assert [one["row"] for one in json.loads(penstock("run", "errors", id, "--json")[1])] == [4, 9]


def test_one_without_failed_rows_says_so_and_has_nothing_to_retry(penstock: Penstock, link: Link) -> None:
    id = make(link, state="done")
    assert penstock("run", "errors", id) == (0, f"no row of run {id} has failed\n", "")
    code, _, err = penstock("run", "retry", id)
    assert (code, "has no failed rows" in err) == (1, True)


@pytest.mark.parametrize(("state", "code"), [("done", 0), ("done_with_errors", 2), ("failed", 1), ("cancelled", 1)])
def test_watching_one_that_has_ended_is_told_at_once(penstock: Penstock, link: Link, state: str, code: int) -> None:
    id = make(link, state=state, rows_total=10, rows_done=10)
    found, out, err = penstock("run", "watch", id)
    assert found == code
    assert id in out
    assert err.startswith(f"run {id}  100 %")
    assert json.loads(penstock("run", "watch", id, "--json")[1])["state"] == state


def test_where_no_bar_can_be_drawn_there_is_a_line_for_each_tenth_and_each_change(link: Link) -> None:
    # given
    progress = ProgressLines()
    looks = [0, 0, 50, 100, 150, 199, 200, 1000]
    # when
    lines = [progress.line(view(link, state="running", rows_total=1000, rows_done=done)) for done in looks]
    # then
    assert [line is not None for line in lines] == [True, False, False, True, False, False, True, True]
    # and: a reason to wait is another line
    assert "(waits for room in the queue)" in str(
        progress.line(view(link, state="running", rows_total=1000, rows_done=1000, doing="waits for room in the queue"))
    )


def test_a_bar_fits_its_terminal_and_shows_the_share(link: Link) -> None:
    half = view(link, state="running", rows_total=1000, rows_done=500, rows_per_s=50, eta_s=10)
    assert "████████████░░░░░░░░░░░░  50 %  500 of 1 000 rows  50 rows/s  10.0 s left" in texts.bar(half, 200)
    assert len(texts.bar(half, 40)) == 40
    assert "500 rows" in texts.bar(view(link, "uncounted", state="running", rows_done=500), 200)
