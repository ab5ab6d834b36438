"""Bad rows of each format: blamed on themselves, at their exact number, never on the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from broker.errors import RunError
from operators.runs.data.read_csv import looks_like
from operators.runs.data.source import Source, open_source


def errors(source: Source, rows: int = 1000) -> dict[int, str]:
    return {chunk.first_row + row: text for chunk in source.chunks(rows) for row, text in chunk.errors.items()}


def rows_of(source: Source, rows: int = 1000) -> int:
    return sum(chunk.rows for chunk in source.chunks(rows))


# --- Parquet ---------------------------------------------------------------------------------


def corrupt(path: Path, group: int) -> None:
    """Overwrites the first pages of one row group."""
    place = pq.ParquetFile(path).metadata.row_group(group).column(0)
    start = place.dictionary_page_offset or place.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(bytes(data))


def test_a_corrupt_row_group_costs_its_own_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": np.arange(1000.0)}), path, row_group_size=250)
    corrupt(path, 2)
    source = open_source(str(path))

    chunks = list(source.chunks(300))

    assert [chunk.rows for chunk in chunks] == [300, 300, 300, 100]
    assert sorted(errors(source)) == list(range(500, 750))
    assert "row group 2 of" in errors(source)[500]
    assert str(path) in errors(source)[500]
    values = pa.concat_tables([chunk.table for chunk in chunks])["x"].to_pylist()
    assert values[:500] + values[750:] == [float(i) for i in (*range(500), *range(750, 1000))]
    assert values[500:750] == [None] * 250


def test_skipping_over_a_corrupt_row_group_does_not_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": np.arange(1000.0)}), path, row_group_size=250)
    corrupt(path, 0)

    late = list(open_source(str(path)).chunks(250, first=1))

    assert [chunk.errors for chunk in late] == [{}, {}, {}]


def test_a_page_that_was_altered_is_noticed_where_pages_have_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"x": np.arange(1000.0)}), path, compression="none", use_dictionary=False, write_page_checksum=True
    )
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(bytes(data))

    assert len(errors(open_source(str(path)))) == 1000


# --- CSV -------------------------------------------------------------------------------------


def test_a_csv_line_of_other_length_is_an_error_of_its_row(tmp_path: Path) -> None:
    lines = ["id,x", *(f"{i},{i}.5" for i in range(200_000))]
    lines[1] = "only one"
    lines[150_001] = "1,2,3"
    lines[200_000] = "1,2,3,4"
    (tmp_path / "a.csv").write_text("\n".join(lines))

    source = open_source(str(tmp_path / "a.csv"))

    assert errors(source) == {
        0: "line has 1 values, 2 are wanted: only one",
        150_000: "line has 3 values, 2 are wanted: 1,2,3",
        199_999: "line has 4 values, 2 are wanted: 1,2,3,4",
    }
    assert rows_of(source) == 200_000
    row = next(iter(source.chunks(2, first=75_000))).table.to_pylist()
    assert row == [{"id": None, "x": None}, {"id": b"150001", "x": b"150001.5"}]


def test_lines_breaks_within_quotes_blank_lines_and_empty_values_are_understood(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfid,name\r\n1,"two\nlines, ""quoted"""\r\n\r\n2,\r\n3,""\r\n')

    (chunk,) = open_source(str(tmp_path / "a.csv")).chunks(10)

    assert chunk.table.to_pylist() == [
        {"id": b"1", "name": b'two\nlines, "quoted"'},
        {"id": b"2", "name": None},
        {"id": b"3", "name": b""},
    ]


def test_a_csv_without_end_of_a_quote_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,name\n1,"never closed\n' + "2,fine\n" * 800_000)

    with pytest.raises(RunError, match=r"a\.csv cannot be read as CSV after its row 0 .*mend the file there"):
        list(open_source(str(tmp_path / "a.csv")).chunks(1000))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of pyarrow's, telling us the line
def test_a_bad_line_that_is_no_utf8_is_still_an_error_of_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("id,größe\n1,2\n".encode() + b"\xff\xfe,\xff,\xff\n3,\xfc\n")
    source = open_source(str(tmp_path / "a.csv"))

    (chunk,) = source.chunks(10)

    assert list(chunk.errors) == [1]
    assert chunk.table.to_pylist() == [
        {"id": b"1", "größe": b"2"},
        {"id": None, "größe": None},
        {"id": b"3", "größe": b"\xfc"},
    ]


@pytest.mark.parametrize(("values", "kind"), [
    (["1", "2", "-3"], pa.int64()),
    (["1", "2.5", "1e-3"], pa.float64()),
    (["007", "008"], pa.float64()),  # as a key it stays text
    (["1", "2", "abc"], pa.float64()),
    (["a", "b", "3"], pa.string()),
    (["true", "false"], pa.bool_()),
    ([None, None], pa.null()),
    ([b"\xff", b"1"], pa.string()),
])  # fmt: skip
def test_a_column_looks_like_what_most_of_its_texts_are(values: list[str | None], kind: pa.DataType) -> None:
    assert looks_like(pa.chunked_array([pa.array(values, pa.binary())])) == kind


# --- JSON lines ------------------------------------------------------------------------------


def test_json_lines_that_are_none_or_of_another_type_are_errors_of_their_rows(tmp_path: Path) -> None:
    lines = [f'{{"id": {i}, "x": [{i}.5, 1]}}' for i in range(30_000)]
    lines[20_000] = "{broken"
    lines[20_001] = '{"id": "abc", "x": [1, 2]}'
    lines[20_002] = '{"id": 7, "x": "none"}'
    lines[20_003] = "[1]"
    lines[20_004] = '{"id": 7}'
    (tmp_path / "a.jsonl").write_text("\n\n".join(lines))
    source = open_source(str(tmp_path / "a.jsonl"))

    told = errors(source)

    assert source.schema == pa.schema([("id", pa.int64()), ("x", pa.list_(pa.float64()))])
    assert sorted(told) == [20_000, 20_001, 20_002, 20_003]
    assert told[20_000].startswith("line is no JSON: ")
    assert told[20_001] == "column 'id': \"abc\" is no int64"
    assert told[20_002] == "column 'x': \"none\" is no list<item: double>"
    assert rows_of(source) == 30_000


def test_only_the_columns_that_are_read_can_be_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1, "x": 1}\n{"id": 2, "x": 2}\n{"id": 3, "x": "wrong"}\n')

    (chunk,) = open_source(str(tmp_path / "a.jsonl")).chunks(10, columns=["id"])

    assert chunk.errors == {}
    assert chunk.table.to_pylist() == [{"id": 1}, {"id": 2}, {"id": 3}]


def test_a_whole_number_column_that_later_has_fractions_keeps_them(tmp_path: Path) -> None:
    lines = [f'{{"x": {i}}}' for i in range(60_000)]
    lines[-1] = '{"x": 1.5}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines))

    last = list(open_source(str(tmp_path / "a.jsonl")).chunks(60_000))[-1]

    assert last.errors == {}
    assert last.table["x"][-1].as_py() == 1.5


# --- Arrow and files -------------------------------------------------------------------------


def test_a_cut_arrow_stream_names_file_and_batch(tmp_path: Path) -> None:
    path = tmp_path / "a.arrows"
    rows = pa.table({"x": np.arange(10_000)})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=1000)
    path.write_bytes(path.read_bytes()[:30_000])

    with pytest.raises(RunError, match=r"a\.arrows cannot be read as Arrow in record batch 3"):
        list(open_source(str(path)).chunks(100))


def test_a_folder_of_images_is_a_row_per_file_and_one_that_went_away_costs_its_row(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    source = open_source(str(tmp_path))

    (tmp_path / "b.png").unlink()
    (chunk,) = source.chunks(10)

    assert chunk.table["path"].to_pylist() == ["a.png", "b.png", "sub/c.png"]
    assert chunk.table["content"].to_pylist() == [b"a.png", None, b"sub/c.png"]
    assert list(chunk.errors) == [1]
    assert "b.png is not there" in chunk.errors[1]


def test_a_column_whose_first_values_are_null_has_the_type_of_later_ones(tmp_path: Path) -> None:
    lines = ['{"x": null, "y": 1}'] * 80_000 + ['{"x": 2.5, "y": 1}', '{"x": "two", "y": 1}', '{"x": 3, "y": 1}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))

    last = list(open_source(str(tmp_path / "a.jsonl")).chunks(80_000))[-1]

    assert last.table["x"].to_pylist() == [2.5, None, 3]
    assert list(last.errors) == [1]


def test_semicolons_part_values_where_the_header_has_no_comma(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id;name\n1;a,b\n")

    (chunk,) = open_source(str(tmp_path / "a.csv")).chunks(5)

    assert chunk.table.to_pylist() == [{"id": b"1", "name": b"a,b"}]


def test_a_cut_packed_file_names_itself(tmp_path: Path) -> None:
    with pa.CompressedOutputStream(str(tmp_path / "a.csv.gz"), "gzip") as packed:
        packed.write(b"id,x\n" + b"".join(b"%d,%d\n" % (i, i * 7919 % 10007) for i in range(100_000)))
    (tmp_path / "a.csv.gz").write_bytes((tmp_path / "a.csv.gz").read_bytes()[:100_000])

    with pytest.raises(RunError, match=r"a\.csv\.gz cannot be read as CSV after its row"):
        list(open_source(str(tmp_path / "a.csv.gz")).chunks(1000))
