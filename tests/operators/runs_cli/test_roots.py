"""`[runs] roots` at submit: one line that names the path and the roots, and nothing is taken in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker import runs
from broker.connection import Link
from broker.errors import RunError
from broker.settings import load
from operators.runs import scheduled
from producer import runs as producer_runs
from tests.operators.runs_cli.conftest import MODEL, Penstock


@pytest.fixture
def data(config: Path, rows: Path, tmp_path: Path) -> Path:
    """The root, with the rows in it, and links that lead out."""
    data = tmp_path / "data"
    (tmp_path / "apart").mkdir()
    data.mkdir()
    os.link(rows, data / "rows.parquet")
    (data / "link.parquet").symlink_to(rows)
    (data / "door").symlink_to(tmp_path / "apart")
    config.write_text(config.read_text() + '[runs]\nroots = ["data"]\n')  # relative: beside pool.toml
    return data


def test_a_run_within_the_roots_is_taken_in(penstock: Penstock, program: None, data: Path) -> None:
    order = ("--model", MODEL, "--map", "x=f*", "--output", data / "new" / "out.parquet")
    assert penstock("run", "submit", data / "rows.parquet", *order)[0] == 0


@pytest.mark.parametrize(
    ("input", "output", "what"),
    [
        ("rows.parquet", "data/out.parquet", "input {folder}/rows.parquet"),
        ("data/../rows.parquet", "data/out.parquet", "input {folder}/rows.parquet"),
        ("data/link.parquet", "data/out.parquet", "input {folder}/data/link.parquet"),
        ("data/l*.parquet", "data/out.parquet", "input {folder}/data/link.parquet"),
        ("data/rows.parquet", "out.parquet", "output {folder}/out.parquet"),
        ("data/rows.parquet", "data/door/out.parquet", "output {folder}/data/door/out.parquet"),
        ("data/rows.parquet", "data/", "the folder of parts {folder}/data.run-"),
        ("memory://rows.parquet", "data/out.parquet", "input memory://rows.parquet"),
    ],
)
def test_a_run_that_leads_out_of_the_roots_is_refused_in_one_line(
    penstock: Penstock, program: None, link: Link, data: Path, tmp_path: Path, input: str, output: str, what: str
) -> None:
    def full(place: str) -> str:
        return place if "://" in place else f"{tmp_path}/{place}"

    code, out, err = penstock(
        "run", "submit", full(input), "--model", MODEL, "--map", "x=f*", "--output", full(output),
        "--if-exists", "overwrite", "--output-kind", "parquet",
    )  # fmt: skip
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"error: {what.format(folder=tmp_path)}")
    assert f" lies outside the roots of runs on this host, {data}; " in err
    assert runs.views(link) == []


def test_check_the_python_api_and_schedules_refuse_it_too(
    penstock: Penstock, program: None, link: Link, data: Path, rows: Path, config: Path
) -> None:
    code, _, err = penstock("run", "check", rows, "--model", MODEL, "--map", "x=f*")
    assert (code, f"input {rows} lies outside the roots" in err) == (1, True)
    with pytest.raises(RunError, match=f"input {rows} lies outside the roots"):
        producer_runs.submit(
            str(rows), model=MODEL, output=str(data / "out.parquet"), mapping={"inputs": {"x": ["f*"]}}
        )
    config.write_text(
        config.read_text()
        + f'[schedules.nightly]\ncron = "0 2 * * *"\ninput = "rows.parquet"\nmodel = "{MODEL}"\noutput = "data/o.csv"\n'
    )
    with pytest.raises(RunError, match=f"input {rows} lies outside the roots"):
        scheduled.submit_for(load(), link, "nightly", 0)
    assert runs.views(link) == []


def test_an_output_within_its_own_input_is_refused(
    penstock: Penstock, program: None, link: Link, rows: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    os.link(rows, tmp_path / "in" / "a.parquet")
    for output in ("in/out.parquet", "in/deep/"):
        code, _, err = penstock(
            "run", "submit", tmp_path / "in", "--model", MODEL, "--map", "x=f*", "--output", f"{tmp_path}/{output}"
        )
        assert (code, err) == (
            1, f"error: output {tmp_path}/{output} lies within the input {tmp_path}/in; write it to another place\n",
        )  # fmt: skip
    assert runs.views(link) == []
