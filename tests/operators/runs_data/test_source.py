"""Sources as a whole: what is opened, how it is cut, and that a change is noticed."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import RunError
from operators.runs.data.slices import Chunk, Piece, after, cut
from operators.runs.data.source import open_source


def table(rows: int, start: int = 0) -> pa.Table:
    return pa.table({"id": np.arange(start, start + rows), "x": np.arange(start, start + rows, dtype=np.float32) / 2})


def write_all(folder: Path) -> dict[str, str]:
    """The same 1000 rows in every format; extension -> path."""
    rows = table(1000)
    paths = {
        kind: str(folder / f"in.{kind}")
        for kind in ("parquet", "csv", "tsv", "jsonl", "arrow", "arrows", "csv.gz", "jsonl.zst")
    }
    pq.write_table(rows, paths["parquet"], row_group_size=130)
    pcsv.write_csv(rows, paths["csv"])
    Path(paths["tsv"]).write_text("id\tx\n" + "".join(f"{i}\t{i / 2}\n" for i in range(1000)))
    lines = "".join(f'{{"id": {i}, "x": {i / 2}}}\n' for i in range(1000))
    Path(paths["jsonl"]).write_text(lines)
    with pa.OSFile(paths["arrow"], "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=170)
    with pa.OSFile(paths["arrows"], "wb") as file, pa.ipc.new_stream(file, rows.schema) as stream:
        stream.write_table(rows, max_chunksize=90)
    with pa.CompressedOutputStream(paths["csv.gz"], "gzip") as packed:
        packed.write(Path(paths["csv"]).read_bytes())
    with pa.CompressedOutputStream(paths["jsonl.zst"], "zstd") as packed:
        packed.write(lines.encode())
    return paths


def ids(chunks: list[Chunk]) -> list[int]:
    return [int(value) for chunk in chunks for value in chunk.table["id"].to_pylist()]


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl", "arrow", "arrows", "csv.gz", "jsonl.zst"])
def test_every_format_gives_the_same_rows_in_the_same_chunks(tmp_path: Path, kind: str) -> None:
    source = open_source(write_all(tmp_path)[kind])

    chunks = list(source.chunks(300))

    assert ids(chunks) == list(range(1000))
    assert [(chunk.index, chunk.first_row, chunk.rows) for chunk in chunks] == [
        (0, 0, 300),
        (1, 300, 300),
        (2, 600, 300),
        (3, 900, 100),
    ]
    assert source.schema.names == ["id", "x"]
    assert source.schema.field("id").type == pa.int64()
    assert 250 <= source.rows_guess <= 4000


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "arrow", "arrows"])
def test_reading_from_the_middle_gives_what_reading_from_the_start_gave(tmp_path: Path, kind: str) -> None:
    source = open_source(write_all(tmp_path)[kind])

    late = list(source.chunks(128, first=5, columns=["id"]))

    assert [chunk.index for chunk in late] == [5, 6, 7]
    assert ids(late) == list(range(640, 1000))
    assert late[0].table.column_names == ["id"]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), max_size=12),
    rows=st.integers(1, 50),
    first=st.integers(0, 8),
    bad=st.sets(st.integers(0, 400)),
)
def test_a_chunk_is_the_same_however_its_rows_came(lengths: list[int], rows: int, first: int, bad: set[int]) -> None:
    total = sum(lengths)

    def pieces() -> list[Piece]:
        start, made = 0, []
        for length in lengths:
            errors = {row - start: f"row {row}" for row in bad if start <= row < start + length}
            made.append(Piece(table(length, start), errors))
            start += length
        return made

    chunks = list(cut(after(iter(pieces()), first * rows), rows, first))

    assert ids(chunks) == list(range(min(total, first * rows), total))
    assert all(chunk.rows == rows for chunk in chunks[:-1])
    assert all(chunk.first_row == chunk.index * rows for chunk in chunks)
    told = {chunk.first_row + row: text for chunk in chunks for row, text in chunk.errors.items()}
    assert told == {row: f"row {row}" for row in bad if first * rows <= row < total}


def test_a_glob_and_a_folder_are_one_source_in_the_order_of_names(tmp_path: Path) -> None:
    for part in (2, 0, 1):
        pq.write_table(table(10, part * 10), tmp_path / f"p{part}.parquet")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".p0.parquet.crc").write_bytes(b"x")

    for url in (f"{tmp_path}/p*.parquet", str(tmp_path), f"{tmp_path}/", f"file://{tmp_path}"):
        source = open_source(url)
        assert (source.kind, source.rows, ids(list(source.chunks(7)))) == ("parquet", 30, list(range(30))), url


def test_a_url_of_another_store_reads_the_same() -> None:
    store = fsspec.filesystem("memory")
    with store.open("/in/a.parquet", "wb") as file:
        pq.write_table(table(50), file)

    source = open_source("memory://in/a.parquet")

    assert ids(list(source.chunks(20, first=1))) == list(range(20, 50))
    assert source.fingerprint == open_source("memory://in/a.parquet").fingerprint


def test_files_whose_columns_differ_are_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(table(5), tmp_path / "a.parquet")
    pq.write_table(table(5).rename_columns(["id", "z"]), tmp_path / "b.parquet")

    with pytest.raises(RunError, match=r"b\.parquet has no column 'x', and .*a\.parquet has"):
        open_source(str(tmp_path))


def test_files_whose_types_can_be_one_are_read_as_that(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": pa.array([1, 2], pa.int32())}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": pa.array([3, 4], pa.int64())}), tmp_path / "b.parquet")

    source = open_source(str(tmp_path))

    assert source.schema.field("id").type == pa.int64()
    assert ids(list(source.chunks(3))) == [1, 2, 3, 4]


@pytest.mark.parametrize(("content", "name", "words"), [
    (b"", "a.parquet", "is empty, 0 bytes"),
    (b"PAR1 no footer", "a.parquet", "is no whole Parquet file"),
    (b"", "a.csv", "is empty, 0 bytes"),
    (b"id,x\n", "a.csv", "holds no rows"),
    (b"id,id\n1,2\n", "a.csv", "column 'id' twice"),
    (b"", "a.jsonl", "is empty"),
    (b"\n\n", "a.jsonl", "is empty"),
    (b"[1, 2]\n", "a.jsonl", "no JSON object"),
    (b"", "a.arrow", "cannot be read as Arrow"),
    (b"ARROW1 and no more", "a.arrow", "cannot be read as Arrow"),
    (b"x", "a.bin", "no extension that tells its kind"),
])  # fmt: skip
def test_an_input_that_is_none_is_refused_when_it_is_opened(
    tmp_path: Path, content: bytes, name: str, words: str
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(RunError, match=words):
        open_source(str(tmp_path / name))


def test_a_file_without_rows_is_refused_but_may_stand_among_others(tmp_path: Path) -> None:
    pq.write_table(table(0), tmp_path / "a.parquet")
    with pytest.raises(RunError, match="holds no rows"):
        open_source(str(tmp_path))

    pq.write_table(table(4), tmp_path / "b.parquet")
    assert open_source(str(tmp_path)).rows == 4


def test_what_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    for url in (f"{tmp_path}/none.parquet", f"{tmp_path}/*.parquet", "memory://nothing/here.csv"):
        with pytest.raises(RunError, match=r"not there|holds no files"):
            open_source(url)
    with pytest.raises(RunError, match="correct its protocol"):
        open_source("nonsense://a/b.parquet")
    (tmp_path / "a.csv").touch()
    (tmp_path / "b.parquet").touch()
    with pytest.raises(RunError, match="mixes csv and parquet"):
        open_source(str(tmp_path))
    with pytest.raises(RunError, match="input kind 'excel' is unknown"):
        open_source(str(tmp_path), kind="excel")


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "arrow"])
def test_a_file_that_changed_or_went_away_between_two_openings_ends_the_reading(tmp_path: Path, kind: str) -> None:
    path = Path(write_all(tmp_path)[kind])
    source = open_source(str(path))
    before = source.fingerprint
    content = path.read_bytes()

    path.write_bytes(content)  # the same bytes, written anew
    os.utime(path, ns=(1, 1))
    with pytest.raises(RunError, match="changed since the run began"):
        next(source.chunks(100))
    assert open_source(str(path)).fingerprint != before

    path.unlink()
    with pytest.raises(RunError, match="is not there"):
        list(source.chunks(100))


def test_a_file_that_changes_while_it_is_read_ends_the_reading(tmp_path: Path) -> None:
    path = Path(write_all(tmp_path)["parquet"])
    chunks = open_source(str(path)).chunks(100)
    next(chunks)

    os.utime(path, ns=(1, 1))

    with pytest.raises(RunError, match="changed since the run began"):
        list(chunks)


def test_a_file_more_in_the_folder_is_another_fingerprint(tmp_path: Path) -> None:
    pq.write_table(table(5), tmp_path / "a.parquet")
    before = open_source(str(tmp_path)).fingerprint
    assert open_source(str(tmp_path)).fingerprint == before

    pq.write_table(table(5), tmp_path / "b.parquet")

    assert open_source(str(tmp_path)).fingerprint != before


def test_chunks_of_large_rows_may_be_few(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x" * 1000)

    source = open_source(str(tmp_path))

    assert source.kind == "files"
    assert source.fitting_rows(10_000, most=4096) == 10
    assert source.fitting_rows(100, most=4096) == 1
    assert source.fitting_rows(1 << 30, most=4096) == 4096


def test_an_output_within_the_input_is_refused(tmp_path: Path) -> None:
    pq.write_table(table(5), tmp_path / "a.parquet")
    (tmp_path / "b").mkdir()

    for url, output in (
        (f"{tmp_path}/a.parquet", f"{tmp_path}/a.parquet"),
        (f"{tmp_path}", f"{tmp_path}/out.parquet"),
        (f"{tmp_path}/", f"file://{tmp_path}/b/out/"),
        (f"{tmp_path}/*.parquet", f"{tmp_path}/out.parquet"),
    ):
        with pytest.raises(RunError, match="lies within the input"):
            open_source(url).check_apart(output)
    for url, output in (
        (f"{tmp_path}/a.parquet", f"{tmp_path}/out.parquet"),
        (f"{tmp_path}/*.parquet", f"{tmp_path}/b/out.parquet"),
        (f"{tmp_path}/*.parquet", f"{tmp_path}/out.csv"),
        (str(tmp_path), f"memory:/{tmp_path}/out.parquet"),
    ):
        open_source(url).check_apart(output)
