"""The output as it grows beside its parts: used when it is whole, worth nothing otherwise, and never a reason to fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from operators.runs.data import assembly, draft
from operators.runs.data.sink import Sink, open_sink

ROWS = 10


def part(index: int) -> pa.Table:
    return pa.table({"id": range(index * ROWS, (index + 1) * ROWS), "error": pa.nulls(ROWS, pa.string())})


def write(sink: Sink, *indexes: int) -> None:
    for index in indexes:
        sink.write(index, part(index), first_row=index * ROWS)


def drafts(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("out.*.run-abc/draft-*")]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the parts that were read to put an output together."""
    found: list[int] = []
    read: Callable[..., pa.Table] = assembly.read_part

    def counted(shelf: Any, note: Any) -> pa.Table:
        found.append(note.index)
        return read(shelf, note)

    monkeypatch.setattr(assembly, "read_part", counted)
    return found


def ids(folder: Path) -> list[int]:
    found: list[int] = pq.read_table(folder / "out.parquet")["id"].to_pylist()
    return found


def test_parts_written_in_order_are_not_read_again(tmp_path: Path, reads: list[int]) -> None:
    sink = open_sink(f"{tmp_path}/out.parquet", run="abc")
    write(sink, 0, 1, 2)

    sink.assemble(rows=30)

    assert ids(tmp_path) == list(range(30))
    assert reads == []
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 1  # small parts together, as ever


def test_lines_and_csv_are_drafted_too(tmp_path: Path, reads: list[int]) -> None:
    for kind in ("csv", "jsonl"):
        sink = open_sink(f"{tmp_path}/out.{kind}", run="abc")
        write(sink, 0, 1)
        sink.assemble(rows=20)

    assert reads == []
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 21
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 20


def test_a_run_that_goes_on_has_its_output_put_together_of_the_parts(tmp_path: Path, reads: list[int]) -> None:
    write(first := open_sink(f"{tmp_path}/out.parquet", run="abc"), 0)
    first.close()
    again = open_sink(f"{tmp_path}/out.parquet", run="abc")
    write(again, 1, 2)

    again.assemble(rows=30)

    assert ids(tmp_path) == list(range(30))
    assert reads == [0, 1, 2]


def test_a_part_that_was_written_anew_ends_the_draft(tmp_path: Path, reads: list[int]) -> None:
    sink = open_sink(f"{tmp_path}/out.parquet", run="abc")
    write(sink, 0, 1, 1)

    sink.assemble(rows=20)

    assert ids(tmp_path) == list(range(20))
    assert reads == [0, 1]


def test_a_draft_that_cannot_be_written_costs_nothing_but_itself(
    tmp_path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = open_sink(f"{tmp_path}/out.parquet", run="abc")
    write(sink, 0)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(draft.Grouped, "write", full)
        write(sink, 1)
    assert drafts(tmp_path) == []
    write(sink, 2)
    sink.assemble(rows=30)

    assert ids(tmp_path) == list(range(30))
    assert reads == [0, 1, 2]


def test_a_turn_that_ends_before_leaves_no_draft(tmp_path: Path) -> None:
    sink = open_sink(f"{tmp_path}/out.parquet", run="abc")
    write(sink, 0)
    assert len(drafts(tmp_path)) == 1

    sink.close()

    assert drafts(tmp_path) == []
    assert list(open_sink(f"{tmp_path}/out.parquet", run="abc").finished()) == [0]


def test_a_draft_of_one_that_was_killed_goes_with_the_next_look(tmp_path: Path) -> None:
    write(killed := open_sink(f"{tmp_path}/out.parquet", run="abc"), 0)

    open_sink(f"{tmp_path}/out.parquet", run="abc").finished()

    assert drafts(tmp_path) == []
    write(killed, 1)  # it may live still, without knowing that it lost the run
    killed.assemble(rows=20)
    assert ids(tmp_path) == list(range(20))
