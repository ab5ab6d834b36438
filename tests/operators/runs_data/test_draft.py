"""The output as it grows beside its parts: used when it is whole, worth nothing otherwise, and never a reason to fail."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from broker.errors import RunError
from operators.runs.data import assembly, draft, parts
from operators.runs.data.sink import Sink, open_sink
from operators.runs.data.source import open_source

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


def test_key_columns_in_a_draft_do_not_hold_the_batches_of_the_input_they_were_cut_from(tmp_path: Path) -> None:
    # given: an Arrow file, whose batches are one buffer each, 4 MB beside a key
    wide = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(1 << 20, np.float32)), 1 << 16)
    table = pa.table({"id": range(16), "x": wide})
    with pa.ipc.new_file(tmp_path / "in.arrow", table.schema) as file:
        for _ in range(8):
            file.write(table)
    before = pa.total_allocated_bytes()
    sink = open_sink(f"{tmp_path}/out.parquet", run="abc")
    # when
    for chunk in open_source(f"{tmp_path}/in.arrow").chunks(16):
        answered = chunk.table.select(["id"]).append_column("error", pa.nulls(16, pa.string()))
        sink.write(chunk.index, answered, first_row=chunk.first_row)
        del chunk, answered
    # then
    assert len(drafts(tmp_path)) == 1
    assert pa.total_allocated_bytes() - before < 1 << 20
    sink.close()


@pytest.mark.parametrize("step", ["write", "close"])
def test_what_a_draft_cannot_write_is_told_when_the_output_is_put_together(tmp_path: Path, step: str) -> None:
    # given: times that no line can hold
    sink = open_sink(f"{tmp_path}/out.jsonl", run="abc")
    count = draft.GROUP_ROWS if step == "write" else 1
    table = pa.table(
        {"at": pa.array(np.ones(count, np.int64), pa.timestamp("ns")), "error": pa.nulls(count, pa.string())}
    )
    # when, then
    assert sink.write(0, table, first_row=0).rows == count
    with pytest.raises(RunError, match=r"assembled: cannot write it \(ValueError: Nanosecond"):
        sink.assemble(rows=count)
    assert drafts(tmp_path) == []


def test_a_draft_that_cannot_be_closed_gives_its_room_back(tmp_path: Path) -> None:
    write(sink := open_sink(f"{tmp_path}/out.parquet", run="abc"), 0)

    class Full:
        def close(self) -> None:
            raise OSError(28, "No space left on device")

    sink._draft._stream = Full()
    sink.close()

    assert drafts(tmp_path) == []


def test_parts_of_an_older_version_and_new_ones_make_one_output(tmp_path: Path) -> None:
    # given: a part that was Parquet, which knows no whole seconds
    def timed(index: int) -> pa.Table:
        return part(index).append_column("at", pa.array(range(ROWS), pa.timestamp("s")))

    sink = open_sink(f"{tmp_path}/out.parquet", run="abc")
    note = parts.write_part(sink._shelf, 0, timed(0), 0, is_final=True)[0]
    sink._manifest.add(note)
    # when: the run goes on
    sink.write(1, timed(1), first_row=ROWS)
    sink.assemble(rows=20)
    # then
    assert ids(tmp_path) == list(range(20))
    assert [at.second for at in pq.read_table(tmp_path / "out.parquet")["at"].to_pylist()] == [
        *range(ROWS),
        *range(ROWS),
    ]


def test_two_that_put_one_output_together_at_a_time_each_make_a_whole_one(tmp_path: Path) -> None:
    """One of them lost the run without knowing."""
    write(sink := open_sink(f"{tmp_path}/out.parquet", run="abc"), 0)
    sink.close()
    late, shelf = open_sink(f"{tmp_path}/out.parquet", run="abc"), sink._shelf

    with shelf.written("assembled") as stream:
        stream.write(b"half of i")
        late.assemble(rows=ROWS, keep=True)
        stream.write(b"t")

    assert ids(tmp_path) == list(range(ROWS))
    assert (Path(shelf.parts) / "assembled").read_bytes() == b"half of it"
    with pytest.raises(RunError, match="cannot write"), shelf.written("assembled"):
        raise OSError(28, "No space left on device")
    assert not list(Path(shelf.parts).glob("*.tmp")), "its room is given back"


def test_a_draft_of_one_that_was_killed_goes_with_the_next_look(tmp_path: Path) -> None:
    write(killed := open_sink(f"{tmp_path}/out.parquet", run="abc"), 0)

    open_sink(f"{tmp_path}/out.parquet", run="abc").finished()

    assert drafts(tmp_path) == []
    write(killed, 1)  # it may live still, without knowing that it lost the run
    killed.assemble(rows=20)
    assert ids(tmp_path) == list(range(20))


def test_a_disk_that_refuses_to_be_waited_for_ends_the_draft_and_not_the_run(
    tmp_path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fdatasync", refused)
    sink = open_sink(f"{tmp_path}/out.parquet", run="abc")
    write(sink, 0, 1, 2)
    assert drafts(tmp_path) == []

    sink.assemble(rows=30)
    assert (ids(tmp_path), reads) == (list(range(30)), [0, 1, 2])
