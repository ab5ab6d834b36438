"""What the program that works runs does with what stands in Redis: it goes nowhere it may not, whatever a request or an id says."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from broker import keys, run_lease, runs
from broker.errors import RunError
from broker.runs import Request
from broker.settings import PoolSettings, RunsSettings, Settings
from operators.runs import clean
from operators.runs.data.files import Files
from operators.runs.data.source import open_source
from operators.runs.enqueue import Enqueuer
from operators.runs.tasks import score
from tests.operators.runs_engine.conftest import Bench


@pytest.fixture
def data(bench: Bench) -> Path:
    """The root: all that runs may touch. Beside it lie `secret` and a folder whose name begins as its own."""
    for name in ("data", "data-evil"):
        (bench.folder / name).mkdir()
    bench.write(20)
    shutil.copy(bench.source, bench.folder / "data" / "in.parquet")
    shutil.copy(bench.source, bench.folder / "data-evil" / "secret.parquet")
    return bench.folder / "data"


def refused(bench: Bench, run: str, root: Path) -> str:
    """The reason a turn left the run with, which is failed, and nothing of it is anywhere."""
    before = sorted(bench.folder.rglob("*"))
    with pytest.raises(RunError) as caught:
        bench.turn(run, runs={"roots": (str(root),)})
    assert bench.view(run).state == "failed"
    assert bench.view(run).error == str(caught.value)
    assert sorted(bench.folder.rglob("*")) == before
    return str(caught.value)


def test_a_run_within_the_roots_is_worked(bench: Bench, data: Path) -> None:
    run = bench.submit(input=str(data / "in.parquet"), output=str(data / "new" / "out.parquet"))
    assert bench.turn(run, runs={"roots": (str(data),)}) == "done: 20 rows, 0 failed"
    assert pq.read_table(data / "new" / "out.parquet").num_rows == 20


@pytest.mark.parametrize(
    "changes",
    [
        {"input": "{folder}/data-evil/secret.parquet"},
        {"input": "{data}/../data-evil/secret.parquet"},
        {"input": "{data}/link.parquet"},
        {"input": "{data}/*.parquet"},
        {"input": "{data}/"},
        {"input": "{data}/door/secret.parquet"},
        {"input": "memory://secret.parquet"},
        {"input": "simplecache::file://{folder}/data-evil/secret.parquet"},
        {"output": "{folder}/data-evil/out.parquet"},
        {"output": "{data}/../out.parquet"},
        {"output": "{data}/door/out.parquet"},
        {"output": "{data}/dangling.parquet"},
        {"output": "{data}"},
        {"output": "memory://out.parquet"},
    ],
    ids=lambda changes: next(iter(changes.values())),
)
def test_a_run_that_leads_out_of_the_roots_is_failed_with_nothing_read_or_written(
    bench: Bench, data: Path, changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    (data / "link.parquet").symlink_to(bench.folder / "data-evil" / "secret.parquet")
    (data / "door").symlink_to(bench.folder / "data-evil")
    if "dangling" in str(changes):
        (data / "dangling.parquet").symlink_to(bench.folder / "later.parquet")
    opened: list[str] = []
    real = Files.opened
    monkeypatch.setattr(Files, "opened", lambda self, entry: opened.append(entry.path) or real(self, entry))  # type: ignore[func-returns-value]
    given = {"input": str(data / "in.parquet"), "output": str(data / "out.parquet"), "output_kind": "parquet"}
    said = {name: text.format(data=data, folder=bench.folder) for name, text in changes.items()}
    # when
    run = bench.submit(**given | said)
    text = refused(bench, run, data)
    # then
    assert " lies outside the roots of runs on this host, " in text
    assert text.count("\n") == 0
    assert opened == [] or "output" in changes


def test_parts_that_a_link_leads_elsewhere_are_not_written(bench: Bench, data: Path) -> None:
    run = bench.submit(input=str(data / "in.parquet"), output=str(data / "out.parquet"))
    (data / f"out.parquet.run-{run}").symlink_to(bench.folder / "data-evil")
    assert "the folder of parts " in refused(bench, run, data)
    assert os.listdir(bench.folder / "data-evil") == ["secret.parquet"]


def test_a_link_that_came_to_be_after_the_input_was_listed_is_not_followed(bench: Bench, data: Path) -> None:
    source = open_source(str(data), roots=(str(data),))
    (data / "in.parquet").unlink()
    (data / "in.parquet").symlink_to(bench.folder / "data-evil" / "secret.parquet")
    with pytest.raises(RunError, match="lies outside the roots"):
        list(source.chunks(10))


@pytest.mark.parametrize(
    "id", ["../data-evil", "x/../../data-evil", "0123456789AB", "0123456789abc", "run", "0123456789a\n"]
)
def test_an_id_that_is_none_becomes_no_part_of_a_path(bench: Bench, data: Path, id: str) -> None:
    request = Request(
        input=str(bench.source), output=str(bench.output), model="raising", mapping={"inputs": {"x": ["x*"]}}
    )
    runs.submit(bench.link, request, id)
    before = sorted(bench.folder.rglob("*"))
    with pytest.raises(RunError, match="is no run's id"):
        bench.turn(id)
    for state in ("done", "cancelled", "failed"):
        bench.link.call("HSET", keys.run(id), "state", state, "ended_ms", "1")
        clean.tidy(bench.settings, bench.link)
    # then
    assert sorted(bench.folder.rglob("*")) == before
    bench.link.call("DEL", keys.run(id))
    bench.link.call("ZREM", keys.runs(), id)


def test_an_id_that_rq_would_not_take_holds_no_other_run_up(bench: Bench) -> None:
    enqueuer = Enqueuer(
        Settings(pool=PoolSettings(host="box")), link=bench.link, connection=None, name="runs_00", task=score
    )
    request = Request(input=str(bench.source), output=str(bench.output), model="raising")
    runs.submit(bench.link, request, "../../etc")
    runs.submit(bench.link, msgspec.structs.replace(request, output="/o"), "0123456789ab")
    found = [one.id for one in enqueuer._idle()]
    assert "0123456789ab" in found
    assert "../../etc" not in found
    for run in ("../../etc", "0123456789ab"):
        bench.link.call("DEL", keys.run(run))
        bench.link.call("ZREM", keys.runs(), run)


@pytest.mark.parametrize(
    "mapping", [{"inputs": {"x": "x*"}}, {"keys": [1]}, {"inputs": []}, {"outputs": {"a": 1}}, {"other": 1}]
)
def test_a_mapping_that_no_program_of_ours_wrote_fails_its_run_in_one_line(bench: Bench, mapping: Any) -> None:
    bench.write(10)
    run = bench.submit(mapping=mapping)
    with pytest.raises(RunError, match=f"the mapping of run {run} is not understood: .*; submit it again"):
        bench.turn(run)
    assert bench.left() == []


def test_the_clean_up_goes_nowhere_that_runs_may_not(bench: Bench, data: Path) -> None:
    # given: parts of a run that ended long ago, within and without
    settings = msgspec.structs.replace(bench.settings, runs=RunsSettings(roots=(str(data),)))
    for place in (data, bench.folder / "data-evil"):
        run = bench.submit(output=f"{place}/out.parquet")
        os.makedirs(f"{place}/out.parquet.run-{run}")
        bench.link.call("HSET", keys.run(run), "state", "done", "ended_ms", "1")
    # when
    clean.tidy(settings, bench.link)
    # then
    assert os.listdir(data) == ["in.parquet"]
    assert len(os.listdir(bench.folder / "data-evil")) == 2


@pytest.mark.parametrize(
    "output", ["{folder}/in/out.parquet", "{folder}/in/", "{folder}/in/deep/", "{folder}/in/a.parquet"]
)
def test_an_output_within_its_own_input_is_refused_by_the_program_too(bench: Bench, output: str) -> None:
    bench.write(20)
    (bench.folder / "in").mkdir()
    shutil.copy(bench.source, bench.folder / "in" / "a.parquet")
    run = bench.submit(
        input=f"{bench.folder}/in", output=output.format(folder=bench.folder), output_kind="parquet",
        if_exists="overwrite",
    )  # fmt: skip
    with pytest.raises(RunError, match="lies within the input"):
        bench.turn(run)
    assert os.listdir(bench.folder / "in") == ["a.parquet"]
    assert pq.read_table(bench.folder / "in" / "a.parquet").num_rows == 20


def test_of_two_runs_that_write_one_output_the_second_to_end_fails_and_keeps_its_parts(bench: Bench) -> None:
    """As it is between hosts that call one place by two names: no script can see that."""
    # given: the same folder under another name
    x = bench.write(120)
    (bench.folder / "other").symlink_to(bench.folder)
    first = bench.submit()
    second = bench.submit(output=str(bench.folder / "other" / "out.parquet"), rate=100.0)
    looks = iter(range(1000))
    assert bench.turn(second, stop=lambda: next(looks) > 12).startswith("queued")
    # when
    assert bench.turn(first) == "done: 120 rows, 0 failed"
    written = bench.output.read_bytes()
    with pytest.raises(
        RunError, match=r"out\.parquet (exists already; remove it|came to exist while the run worked; move it away)"
    ):
        bench.turn(second)
    # then: the first one's output is as it was, and the second goes on once there is room
    assert bench.output.read_bytes() == written
    bench.output.rename(bench.folder / "first.parquet")
    runs.ask(bench.link, second, "resume")
    assert bench.turn(second) == "done: 120 rows, 0 failed"
    for path in (bench.output, bench.folder / "first.parquet"):
        y = np.array(pq.read_table(path)["y"].to_pylist(), dtype=np.float32)
        assert np.array_equal(y, 2 * x)
    assert not run_lease.is_held(bench.link, [second])[0]
