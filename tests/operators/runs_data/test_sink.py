"""Sinks: parts that survive a death at any step, and an output that is whole or not there."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from broker.errors import RunError
from operators.runs.data.sink import Sink, open_sink


def part(index: int, rows: int = 10) -> pa.Table:
    ids = np.arange(index * 10, index * 10 + rows)
    errors = pa.array([f"bad {row}" if row % 7 == 3 else None for row in ids.tolist()], pa.string())
    return pa.table({"id": ids, "prediction": ids / 2, "error": errors})


def write(sink: Sink, *indexes: int) -> None:
    for index in indexes:
        sink.write(index, part(index), first_row=index * 10)


def expected(parts: int) -> list[dict[str, Any]]:
    return [row for index in range(parts) for row in part(index).to_pylist()]


def beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_parts_written_in_any_order_become_one_file_in_row_order(tmp_path: Path) -> None:
    sink = open_sink(f"{tmp_path}/out.parquet", run="abc")
    write(sink, 2, 0, 1)
    assert beside(tmp_path) == ["out.parquet.run-abc"]

    sink.assemble(rows=30)

    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == expected(3)
    assert pq.ParquetFile(tmp_path / "out.parquet").metadata.num_row_groups == 1
    assert sink.is_assembled
    sink.discard()
    assert beside(tmp_path) == ["out.parquet"]


def test_another_process_sees_what_is_finished(tmp_path: Path) -> None:
    write(open_sink(f"{tmp_path}/out.parquet", run="abc"), 0, 1, 300)

    again = open_sink(f"{tmp_path}/out.parquet", run="abc")

    notes = again.finished()
    assert {index: (note.first_row, note.rows, note.failed) for index, note in notes.items()} == {
        0: (0, 10, 1), 1: (10, 10, 2), 300: (3000, 10, 1)
    }  # fmt: skip
    assert again.read(1).to_pylist() == part(1).to_pylist()
    assert open_sink(f"{tmp_path}/out.parquet", run="other").finished() == {}


def test_what_has_no_note_or_another_size_is_thrown_away(tmp_path: Path) -> None:
    sink = open_sink(f"{tmp_path}/out.parquet", run="abc")
    write(sink, 0, 1)
    parts = tmp_path / "out.parquet.run-abc"
    (parts / "part-000000.arrow").write_bytes(b"short")
    (parts / "part-000007.arrow").write_bytes(b"no note")
    (parts / "part-000008.arrow.tmp").write_bytes(b"half")

    assert list(open_sink(f"{tmp_path}/out.parquet", run="abc").finished()) == [1]

    assert beside(parts) == ["manifest-0000.json", "part-000001.arrow"]


def test_a_part_that_was_altered_is_forgotten_so_that_it_is_made_again(tmp_path: Path) -> None:
    sink = open_sink(f"{tmp_path}/out.parquet", run="abc")
    write(sink, 0, 1)
    path = tmp_path / "out.parquet.run-abc/part-000001.arrow"
    path.write_bytes(path.read_bytes()[::-1])

    with pytest.raises(RunError, match=r"part-000001\.arrow is not what the run wrote; resume the run"):
        open_sink(f"{tmp_path}/out.parquet", run="abc").assemble(rows=20)

    assert not (tmp_path / "out.parquet").exists()
    assert list(open_sink(f"{tmp_path}/out.parquet", run="abc").finished()) == [0]


def test_parts_whose_notes_a_version_before_wrote_are_good_as_they_are_and_told_when_altered(tmp_path: Path) -> None:
    write(open_sink(f"{tmp_path}/out.parquet", run="abc"), 0, 1)
    folder = tmp_path / "out.parquet.run-abc"
    notes = json.loads((folder / "manifest-0000.json").read_bytes())
    for note in notes:
        note["digest"] = blake2b((folder / note["name"]).read_bytes(), digest_size=16).hexdigest()
    (folder / "manifest-0000.json").write_text(json.dumps(notes))

    sink = open_sink(f"{tmp_path}/out.parquet", run="abc")
    assert list(sink.finished()) == [0, 1]
    assert sink.read(1).equals(part(1)), "as a retry of failed rows reads it"
    sink.assemble(rows=20, keep=True)
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == expected(2)

    data = bytearray((folder / "part-000001.arrow").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "part-000001.arrow").write_bytes(data)
    with pytest.raises(RunError, match="is not what the run wrote"):
        sink.read(1)


def test_an_output_with_rows_missing_is_not_made(tmp_path: Path) -> None:
    sink = open_sink(f"{tmp_path}/out.parquet", run="abc")
    with pytest.raises(RunError, match="no parts yet"):
        sink.assemble()
    write(sink, 0, 2)
    with pytest.raises(RunError, match="no rows 10 to 19 before part 2"):
        sink.assemble()
    write(sink, 1)
    with pytest.raises(RunError, match="has 30 rows, and the input 40"):
        sink.assemble(rows=40)
    assert beside(tmp_path) == ["out.parquet.run-abc"]


def test_a_retry_writes_parts_anew_and_puts_the_output_together_again(tmp_path: Path) -> None:
    for url in (f"{tmp_path}/out.parquet", f"{tmp_path}/folder/"):
        sink = open_sink(url, run="abc")
        write(sink, 0, 1)
        sink.assemble(rows=20, keep=True)

        again = open_sink(url, run="abc")
        assert again.is_assembled
        assert list(again.finished()) == [0, 1]
        again.write(1, part(1).set_column(2, "error", pa.nulls(10, pa.string())), first_row=10)
        again.assemble(rows=20)

        rows = pq.read_table(url.rstrip("/")).to_pylist()
        assert [row["id"] for row in rows if row["error"]] == [3], url
        assert len(rows) == 20
        again.discard()
    assert beside(tmp_path) == ["folder", "out.parquet"]


def test_a_folder_holds_the_parts_and_their_notes(tmp_path: Path) -> None:
    sink = open_sink(f"{tmp_path}/out/", run="abc")
    write(sink, 0, 1)

    sink.assemble(rows=20)
    sink.discard()

    assert beside(tmp_path) == ["out"]
    assert beside(tmp_path / "out") == ["_manifest.json", "part-000000.parquet", "part-000001.parquet"]
    assert pq.read_table(tmp_path / "out").to_pylist() == expected(2)
    noted = msgspec.json.decode((tmp_path / "out/_manifest.json").read_bytes())
    assert [(note["name"], note["first_row"], note["rows"], note["failed"]) for note in noted] == [
        ("part-000000.parquet", 0, 10, 1), ("part-000001.parquet", 10, 10, 2)
    ]  # fmt: skip


@pytest.mark.parametrize("end", ["", "/"])
def test_csv_and_json_lines_hold_the_same_rows(tmp_path: Path, end: str) -> None:
    for kind in ("csv", "jsonl"):
        sink = open_sink(f"{tmp_path}/{kind}.{kind}{end}", kind=kind, run="abc")
        for index in range(2):
            sink.write(index, part(index).append_column("v", pa.array([[index, 1]] * 10)), first_row=index * 10)
        sink.assemble(rows=20)

    first = "/part-000000.{}" if end else ""
    lines = (tmp_path / f"jsonl.jsonl{first.format('jsonl')}").read_bytes().splitlines()
    assert msgspec.json.decode(lines[3]) == {"id": 3, "prediction": 1.5, "error": "bad 3", "v": [0, 1]}
    rows = pcsv.read_csv(f"{tmp_path}/csv.csv{first.format('csv')}").to_pylist()
    assert rows[3] == {"id": 3, "prediction": 1.5, "error": "bad 3", "v": "[0,1]"}
    assert len(lines) == len(rows) == (10 if end else 20)


# --- refusals --------------------------------------------------------------------------------


def test_an_output_that_exists_is_refused_when_the_sink_is_opened(tmp_path: Path) -> None:
    (tmp_path / "out.parquet").write_bytes(b"dear")
    (tmp_path / "folder").mkdir()
    open_sink(f"{tmp_path}/folder/", run="abc")  # an empty folder is none
    (tmp_path / "folder/x").touch()

    for url in (f"{tmp_path}/out.parquet", f"{tmp_path}/folder/"):
        with pytest.raises(RunError, match="exists already; remove it, choose another name"):
            open_sink(url, run="abc")
        sink = open_sink(url, run="abc", replace=True)
        write(sink, 0)
        assert (tmp_path / "out.parquet").read_bytes() == b"dear" or url.endswith("/")
        sink.assemble(rows=10)
        assert pq.read_table(url.rstrip("/")).num_rows == 10
    assert beside(tmp_path / "folder") == ["_manifest.json", "part-000000.parquet"]


def test_an_output_that_came_to_exist_meanwhile_is_left_alone(tmp_path: Path) -> None:
    for url in (f"{tmp_path}/out.parquet", f"{tmp_path}/folder/"):
        sink = open_sink(url, run="abc")
        write(sink, 0)
        other = open_sink(url, run="other")
        write(other, 0, 1)
        other.assemble(rows=20)

        with pytest.raises(RunError, match="came to exist while the run worked; move it away"):
            sink.assemble(rows=10)

        assert pq.read_table(url.rstrip("/")).num_rows == 20
        assert list(open_sink(url, run="abc", replace=True).finished()) == [0]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is no folder"):
        open_sink(f"{tmp_path}/file/out.parquet", run="abc")
    with monkeypatch.context() as patched:  # tests may run as root, who may do all that a mode forbids
        patched.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(RunError, match=r"may not write into .* give the user of the runs program the right"):
            open_sink(f"{tmp_path}/new/folders/out.parquet", run="abc")
    with pytest.raises(RunError, match=r"cannot write it|is not there"):
        write(open_sink("/proc/out.parquet", run="abc"), 0)
    with pytest.raises(RunError, match=r"end it in \.parquet"):
        open_sink(f"{tmp_path}/out.xlsx", run="abc")
    with pytest.raises(RunError, match="correct its protocol"):
        open_sink("nonsense://a/out.parquet", run="abc")


def test_a_full_disk_is_one_line_and_what_is_done_stays_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = open_sink(f"{tmp_path}/out.parquet", run="abc")
    write(sink, 0)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"No space left on device.*free some space, then resume the run"):
            write(sink, 1)
        with pytest.raises(RunError, match="free some space"):
            sink.assemble()
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
        with pytest.raises(RunError, match="needs 0 MB to be put together, and 0 MB are free"):
            sink.assemble()
    assert beside(tmp_path) == ["out.parquet.run-abc"]

    again = open_sink(f"{tmp_path}/out.parquet", run="abc")
    assert list(again.finished()) == [0]
    write(again, 1)
    again.assemble(rows=20)
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == expected(2)


# --- dying -----------------------------------------------------------------------------------


class Died(BaseException):
    """As kill -9: nothing of ours catches it."""


@contextmanager
def dying_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Raises before the step-th call that changes the disk. Gives the number of those made."""
    made = [0]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def one(*args: Any, **more: Any) -> Any:
            made[0] += 1
            if made[0] == step:
                raise Died
            return call(*args, **more)

        return one

    with monkeypatch.context() as patched:
        for name in ("rename", "replace", "link", "unlink", "fsync", "remove", "rmdir"):
            patched.setattr(os, name, counted(getattr(os, name)))
        patched.setattr(shutil, "rmtree", counted(shutil.rmtree))
        for name in ("pipe_file", "cp_file", "_rm"):
            patched.setattr(MemoryFileSystem, name, counted(getattr(MemoryFileSystem, name)))
        yield made


@pytest.mark.parametrize("store", ["", "memory://"])
@pytest.mark.parametrize("name", ["out.parquet", "folder/"])
def test_a_run_that_dies_at_any_step_goes_on_and_its_output_is_whole(
    tmp_path: Path, name: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = set[str]()  # as Redis does that a run is done

    def work(url: str) -> None:
        sink = open_sink(url, run="abc", replace=url in noted)
        if url not in noted:
            done = {0, 300} if sink.is_assembled else sink.finished().keys()
            for place, index in enumerate((0, 300)):  # whose notes stand in two files
                if index not in done:
                    sink.write(index, part(place), first_row=place * 10)
            sink.assemble(rows=20)
            sink.close()
        noted.add(url)
        sink.discard()

    def found(url: str) -> list[dict[str, Any]]:
        files, path = fsspec.core.url_to_fs(url.rstrip("/"))
        rows: list[dict[str, Any]] = pq.read_table(path, filesystem=files).to_pylist()
        return rows

    step, is_over = 0, False
    while not is_over:
        step += 1
        (tmp_path / str(step)).mkdir()
        url = f"{store}{tmp_path}/{step}/{name}"
        files, folder = fsspec.core.url_to_fs(url.rpartition(f"/{name}")[0])
        with dying_at(step, monkeypatch):
            try:
                work(url)
                is_over = True
            except Died:
                if files.exists(f"{folder}/{name}" + ("_manifest.json" if name.endswith("/") else "")):
                    assert found(url) == expected(2), step
        if not is_over:
            work(url)
        assert found(url) == expected(2), step
        assert [path.rpartition("/")[2] for path in files.ls(folder, detail=False)] == [name.rstrip("/")], step
    assert step > 10


# --- other stores ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl", "folder/"])
def test_a_store_of_objects_holds_the_same(tmp_path: Path, name: str) -> None:
    url = f"memory://{tmp_path.name}/{name}"
    sink = open_sink(url, run="abc")
    write(sink, 1, 0)
    assert list(open_sink(url, run="abc").finished()) == [0, 1]

    sink.assemble(rows=20, keep=True)
    assert open_sink(url, run="abc").is_assembled
    sink.assemble(rows=20)
    sink.discard()

    store = fsspec.filesystem("memory")
    left = [path.removeprefix(f"/{tmp_path.name}/") for path in store.find(f"/{tmp_path.name}")]
    if name == "folder/":
        assert left == ["folder/_manifest.json", "folder/part-000000.parquet", "folder/part-000001.parquet"]
        return
    assert left == [name]
    if name.endswith(".parquet"):
        with store.open(f"/{tmp_path.name}/{name}") as file:
            assert pq.read_table(file).to_pylist() == expected(2)
    with pytest.raises(RunError, match="exists already"):
        open_sink(url, run="other")
