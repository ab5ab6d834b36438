"""`penstock run check`: a hundred rows are scored by a real queue and a fake worker, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from broker import outcome_codec
from broker.connection import Link
from broker.messages import Job, Status
from tests.operators.runs_cli.conftest import MODEL, ROWS, Penstock
from tests.producer.fake import Worker, double


@pytest.fixture
def worker(link: Link, redis_url: str) -> Iterator[Worker]:
    with Worker(redis_url) as worker:
        yield worker


def test_it_scores_a_hundred_rows_and_says_how_long_all_would_take(
    penstock: Penstock, worker: Worker, link: Link, rows: Path, tmp_path: Path
) -> None:
    # when
    code, out, err = penstock("run", "check", rows, "--model", MODEL, "--map", "x=f*", "--key", "id")
    # then
    assert (code, err) == (0, "")
    assert f"input       parquet, {ROWS} rows" in out
    assert "mapping     x <- f0, f1, f2, f3" in out
    assert "tried       100 rows, 0 failed" in out
    assert "sample      id=1, prediction=3, confidence=8.0, model_version=1, error=None" in out  # twice f3 = 1 + 3
    assert "with 1 ready slot" in out
    assert link.call("ZCARD", "penstock:{pool}:runs") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pool.toml", "rows.parquet"]
    # and
    found = json.loads(penstock("run", "check", rows, "--model", MODEL, "--map", "x=f*", "--key", "id", "--json")[1])
    assert (found["tried"], found["rows_total"], found["slots"]) == (100, ROWS, 1)
    assert found["eta_s"] == pytest.approx(ROWS / found["rows_per_s"])


def test_rows_that_cannot_be_converted_are_told_and_exit_with_2(
    penstock: Penstock, worker: Worker, tmp_path: Path
) -> None:
    # given
    lines = [f"{row},1,{'abc' if row == 8 else '' if row == 9 else 2},3,4" for row in range(60)]
    (tmp_path / "rows.csv").write_text("\n".join(["id,f0,f1,f2,f3", *lines]))
    # when
    code, out, err = penstock("run", "check", tmp_path / "rows.csv", "--model", MODEL, "--map", "x=f*", "--key", "id")
    # then
    assert code == 2, err
    assert "tried       60 rows, 2 failed" in out
    assert "row 8: column 'f1': 'abc'" in out


def test_a_job_that_fails_is_halved_until_the_row_at_fault_stands_alone(
    penstock: Penstock, link: Link, redis_url: str, rows: Path
) -> None:
    # given: a model that does not like row 42
    def act(job: Job, given: Any) -> Any:
        if (given[..., 0] == 42).any():
            return outcome_codec.encode_failure(job, Status.FAILED, reason="model_error", text="42 is not to my taste")
        return double(job, given)

    # when
    with Worker(redis_url, act):
        code, out, _ = penstock("run", "check", rows, "--model", MODEL, "--map", "x=f*", "--key", "id", "--json")
    # then
    assert code == 2
    (failed,) = json.loads(out)["failed"].items()
    assert failed[0] == "42"
    assert "42 is not to my taste" in failed[1]


def test_a_model_that_no_slot_serves_is_told_though_the_mapping_is_right(
    penstock: Penstock, link: Link, rows: Path
) -> None:
    code, out, err = penstock("run", "check", rows, "--model", MODEL, "--map", "x=f*")
    assert (code, out) == (1, "")
    assert "the mapping is right, but no slot of double is ready" in err


def test_a_mapping_that_does_not_fit_is_told_before_anything_is_scored(
    penstock: Penstock, worker: Worker, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"a": [1.0], "b": ["x"]}), tmp_path / "other.parquet")
    code, _, err = penstock("run", "check", tmp_path / "other.parquet", "--model", MODEL)
    assert (code, err.count("\n")) == (1, 1)
    assert "x" in err
    assert worker.jobs == []
