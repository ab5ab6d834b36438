"""`penstock run submit`: what is taken in, and everything that is refused before it is, in one line each."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from broker import audit, runs, spec
from broker.connection import Link
from broker.spec import Limits, ModelSpec, TensorSpec
from tests.operators.runs_cli.conftest import MODEL, Penstock, beat, stands


def test_a_run_is_taken_in_with_absolute_paths_and_its_id_is_all_of_stdout(
    penstock: Penstock, program: None, link: Link, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.chdir(tmp_path)
    # when
    code, out, err = penstock(
        "run", "submit", "rows.parquet", "--model", MODEL, "--map", "x=f*", "--key", "id", "--output", "scored.parquet",
        "--rate", "100", "--priority", "low", "--error-limit", "3", "--reason", "nightly",
    )  # fmt: skip
    # then
    assert (code, err) == (0, "submitted\n")
    view = runs.view(link, out.strip())
    asked = view.request
    assert view.state == "queued"
    assert (asked.input, asked.output) == (str(rows), str(tmp_path / "scored.parquet"))
    assert asked.mapping == {"inputs": {"x": ["f*"]}, "keys": ["id"]}
    assert (asked.rate, asked.priority, asked.error_limit, asked.host) == (100.0, "low", 3, "box")
    (act,) = audit.acts(link)
    assert (act.command, act.target, act.reason) == ("run submit", f"{view.id} {asked.output}", "nightly")


def test_the_same_order_attaches_to_its_run_and_a_file_written_anew_is_another(
    penstock: Penstock, program: None, link: Link, rows: Path, tmp_path: Path
) -> None:
    # given
    order = ("run", "submit", rows, "--model", MODEL, "--map", "x=f*", "--output", tmp_path / "scored.parquet")
    first = penstock(*order)[1]
    # then
    assert penstock(*order) == (0, first, "attached to; it is queued\n")
    # when: it has ended, and its input is written anew
    stands(link, first.strip(), state="cancelled")
    pq.write_table(pq.read_table(rows).slice(1), rows)
    # then
    code, out, _ = penstock(*order, "--json")
    assert code == 0
    assert json.loads(out)["is_new"] is True
    assert json.loads(out)["id"] != first.strip()


def test_a_run_that_exists_is_refused_when_that_is_asked_for(
    penstock: Penstock, program: None, rows: Path, tmp_path: Path
) -> None:
    order = ("run", "submit", rows, "--model", MODEL, "--map", "x=f*", "--output", tmp_path / "scored.parquet")
    id = penstock(*order)[1].strip()
    code, _, err = penstock(*order, "--if-exists", "fail")
    assert code == 1
    assert f"run {id} exists already and is queued" in err


def test_a_done_run_whose_output_was_taken_away_is_done_again(
    penstock: Penstock, program: None, link: Link, rows: Path, tmp_path: Path
) -> None:
    # given
    output = tmp_path / "scored.parquet"
    order = ("run", "submit", rows, "--model", MODEL, "--map", "x=f*", "--output", output)
    id = penstock(*order)[1].strip()
    stands(link, id, state="done")
    output.write_bytes(b"scored")
    assert penstock(*order) == (0, f"{id}\n", "attached to; it is done\n")
    # when
    output.unlink()
    # then
    assert penstock(*order) == (0, f"{id}\n", "submitted\n")
    assert runs.view(link, id).state == "queued"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model", "duoble"), 'unknown model "duoble"; did you mean "double"?'),
        (("--map", "x=f0,f1,f2,g3"), "g3"),
        (("--map", "x=f0,f1"), "2"),
        (("--map", "z=f*"), "z"),
        (("--map", "x"), "write INPUT=COLUMN"),
        (("--key", "idd"), "idd"),
        (("--key", "id,id"), "key column 'id' is named twice"),
        (("--columns", "best=nothing"), "nothing"),
        (("--output", "scored.xlsx"), ".parquet, .csv or .jsonl"),
        (("--mapping", "nowhere.toml"), "cannot read the mapping nowhere.toml: No such file or directory"),
    ],
)
def test_what_does_not_fit_is_one_line_and_takes_nothing_in(
    penstock: Penstock, program: None, link: Link, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...], says: str,
) -> None:  # fmt: skip
    # given
    monkeypatch.chdir(tmp_path)
    order = {"--model": MODEL, "--map": "x=f*", "--output": "scored.parquet"} | dict(
        zip(words[::2], words[1::2], strict=True)
    )
    # when
    code, out, err = penstock("run", "submit", rows, *(word for pair in order.items() for word in pair))
    # then
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert says in err
    assert runs.views(link) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pool.toml", "rows.parquet"]


def test_an_input_that_is_not_there_or_empty_is_refused(penstock: Penstock, program: None, tmp_path: Path) -> None:
    # given
    pq.write_table(pa.table({"x": pa.array([], pa.float32())}), tmp_path / "empty.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no more PAR1")
    to = ("--model", MODEL, "--output", tmp_path / "scored.parquet")
    # then
    for name, says in (
        ("gone.parquet", f"cannot read {tmp_path / 'gone.parquet'}: No such file or directory"),
        ("*.csv", "holds no files"),
        ("empty.parquet", "holds no rows"),
        ("broken.parquet", "broken.parquet"),
    ):
        code, _, err = penstock("run", "submit", tmp_path / name, *to)
        assert (code, err.count("\n")) == (1, 1)
        assert says in err


def test_an_output_that_exists_is_refused_unless_it_is_to_be_written_over(
    penstock: Penstock, program: None, link: Link, rows: Path, tmp_path: Path
) -> None:
    # given
    output = tmp_path / "scored.parquet"
    output.write_bytes(b"somebody's")
    order = ("run", "submit", rows, "--model", MODEL, "--map", "x=f*", "--output", output)
    # when
    code, _, err = penstock(*order)
    # then
    assert code == 1
    assert f"the output {output} exists" in err
    assert "--if-exists overwrite" in err
    # and
    assert penstock(*order, "--if-exists", "overwrite")[0] == 0
    assert output.read_bytes() == b"somebody's"  # until the run has ended


def test_two_runs_never_write_to_one_output(penstock: Penstock, program: None, rows: Path, tmp_path: Path) -> None:
    order = ("run", "submit", rows, "--model", MODEL, "--output", tmp_path / "scored.parquet")
    id = penstock(*order, "--map", "x=f*")[1].strip()
    code, _, err = penstock(*order, "--map", "x=f3,f2,f1,f0")
    assert code == 1
    assert f"run {id} (queued) writes to {tmp_path / 'scored.parquet'} already" in err
    code, _, err = penstock("run", "submit", rows, "--model", MODEL, "--map", "x=f*", "--output", rows)
    assert (code, "the output is the input" in err) == (1, True)


def test_a_pipeline_does_not_take_anothers_rows_for_its_own(
    penstock: Penstock, program: None, link: Link, rows: Path, tmp_path: Path
) -> None:
    # given: a run that is done, and another that wrote over its output since
    output = tmp_path / "scored.parquet"
    order = ("run", "submit", rows, "--model", MODEL, "--map", "x=f*", "--output", output, "--wait")
    first = penstock(*order[:-1])[1].strip()
    output.write_bytes(b"the first one's")
    stands(link, first, state="done", ended_ms=1)
    assert penstock(*order)[0] == 0
    other = penstock(*order[:-1], "--key", "id", "--if-exists", "overwrite")[1].strip()
    stands(link, other, state="done", ended_ms=2)
    # when
    code, _, err = penstock(*order)
    # then
    assert code == 1
    assert f"run {other} (done) has written {output} since; submit with --if-exists overwrite" in err
    assert penstock(*order[:-1], "--if-exists", "overwrite")[0] == 0


def test_a_path_that_no_runs_program_sees_is_refused_naming_host_and_path(
    penstock: Penstock, link: Link, rows: Path, tmp_path: Path
) -> None:
    # given
    beat(link, "other")
    order = ("run", "submit", rows, "--model", MODEL, "--map", "x=f*", "--output", tmp_path / "scored.parquet")
    # when
    code, _, err = penstock(*order)
    # then
    assert code == 1
    assert f"{rows} is a path of host box, and runs are worked on other, which cannot see it" in err
    # when: both hosts mount it
    code, out, _ = penstock(*order, "--shared")
    # then
    assert code == 0
    assert runs.view(link, out.strip()).request.host == ""


def test_without_a_program_that_works_runs_it_waits_and_says_so(
    penstock: Penstock, link: Link, rows: Path, tmp_path: Path
) -> None:
    code, _, err = penstock("run", "submit", rows, "--model", MODEL, "--map", "x=f*", "--output", tmp_path / "o.csv")
    assert code == 0
    assert "warning: no program works runs now, so it waits: `penstock up`" in err


def test_a_mapping_file_says_the_same_as_the_words(
    penstock: Penstock, program: None, link: Link, rows: Path, tmp_path: Path
) -> None:
    # given
    (tmp_path / "map.toml").write_text('keys = ["id"]\n[inputs]\nx = "f*"\n')
    order = ("run", "submit", rows, "--model", MODEL, "--output", tmp_path / "scored.parquet")
    # then
    assert (
        penstock(*order, "--mapping", tmp_path / "map.toml")[1] == penstock(*order, "--map", "x=f*", "--key", "id")[1]
    )


def test_a_new_model_version_makes_another_run(
    penstock: Penstock, program: None, link: Link, rows: Path, tmp_path: Path
) -> None:
    # given
    order = ("run", "submit", rows, "--model", MODEL, "--map", "x=f*", "--output", tmp_path / "scored.parquet")
    first = penstock(*order)[1].strip()
    stands(link, first, state="done")
    # when
    published = ModelSpec(
        name=MODEL, version="2", takes="tensors", max_rows=64,
        inputs=(TensorSpec("x", "float32", (4,)),), outputs=(TensorSpec("y", "float32", (4,)),),
    )  # fmt: skip
    spec.publish(link, published, Limits())
    # then
    second = penstock(*order)[1].strip()
    assert second != first
    assert runs.view(link, second).version == "2"
