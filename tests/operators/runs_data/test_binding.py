"""Mappings tied to schemas and models: what is found, what is refused before the first row, and whom a bad value costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from broker.errors import RunError
from broker.spec import ModelSpec, TensorSpec
from operators.runs.data.binding import Read, bind
from operators.runs.data.mapping import Mapping, parse
from operators.runs.data.slices import Chunk
from operators.runs.data.source import open_source


def model(*inputs: TensorSpec, takes: Any = "tensors", **more: Any) -> ModelSpec:
    return ModelSpec(
        name="mlp",
        version="v1",
        takes=takes,
        inputs=inputs,
        outputs=(TensorSpec("y", "float32", (3,)),),
        max_rows=256,
        **more,
    )


FOUR = model(TensorSpec("x", "float32", (4,)))
TOKENS = model(TensorSpec("ids", "int64", ("n",)), TensorSpec("mask", "int64", ("n",)), buckets={"n": (4, 8)})


BY_ID = Mapping(keys=("id",))


def columns(**more: Any) -> pa.Table:
    return pa.table({"id": [10, 11, 12]} | {f"f{i}": np.arange(3, dtype=np.float32) + i for i in range(4)} | more)


def read(table: pa.Table, spec: ModelSpec = FOUR, mapping: Mapping = BY_ID) -> Read:
    return bind(mapping, table.schema, spec).read(Chunk(0, 0, table))


# --- what is found ---------------------------------------------------------------------------


def test_as_many_numeric_columns_as_the_row_has_values_are_the_input() -> None:
    found = read(columns())

    (group,) = found.groups
    assert isinstance(group.inputs, dict)
    assert group.inputs["x"].tolist() == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]
    assert (group.inputs["x"].dtype, group.inputs["x"].flags.c_contiguous) == (np.float32, True)
    assert group.rows.tolist() == [0, 1, 2]
    assert found.keys.to_pydict() == {"id": [10, 11, 12]}
    assert (found.errors, found.rows) == ({}, 3)


def test_a_column_of_the_inputs_name_is_the_input() -> None:
    spec = model(TensorSpec("a", "int32"), TensorSpec("b", "float64", (1,)))

    (group,) = read(pa.table({"id": [1], "b": [2], "a": [3]}), spec).groups

    assert isinstance(group.inputs, dict)
    assert (group.inputs["a"].tolist(), group.inputs["b"].tolist()) == ([3], [[2.0]])
    assert group.inputs["a"].dtype == np.int32


def test_patterns_take_columns_in_natural_order_and_leave_keys_alone() -> None:
    names = ["f10", "f9", "f2", "fid"]
    table = pa.table({name: [float(i)] for i, name in enumerate(names)})
    spec = model(TensorSpec("x", "float32", (3,)))

    binding = bind(parse(["x=f*"], keys=["fid"]), table.schema, spec)

    assert binding.inputs == {"x": ("f2", "f9", "f10")}
    assert binding.columns == ("f2", "f9", "f10", "fid")


def test_lists_of_either_sort_and_several_dimensions_give_the_row() -> None:
    image = model(TensorSpec("x", "uint8", (2, 2)))
    rows = [[1, 2, 3, 4], [5, 6, 7, 8]]
    for values in (
        pa.array(rows, pa.list_(pa.int64())),
        pa.array(rows, pa.list_(pa.uint8(), 4)),
        pa.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], pa.list_(pa.list_(pa.uint8()))),
        pa.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], pa.list_(pa.list_(pa.uint8(), 2), 2)),
        pa.array([[0] * 4, *rows], pa.large_list(pa.float64()))[1:],
        pa.array([[0] * 4, *rows], pa.list_(pa.uint8(), 4))[1:],
        pa.array(rows, pa.list_view(pa.uint8())),
        pa.array([[0] * 4, *rows, [0] * 4], pa.large_list_view(pa.uint8()))[1:3],
    ):
        (group,) = read(pa.table({"px": values}), image, Mapping()).groups
        assert isinstance(group.inputs, dict)
        assert group.inputs["x"].tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]], values.type


def test_rows_of_several_lengths_come_in_groups() -> None:
    table = pa.table({"ids": [[1, 2], [3], [4, 5]], "mask": [[1, 1], [1], [1, 0]]})

    found = read(table, TOKENS, Mapping())

    assert [group.rows.tolist() for group in found.groups] == [[1], [0, 2]]
    assert [group.inputs["ids"].tolist() for group in found.groups if isinstance(group.inputs, dict)] == [
        [[3]],
        [[1, 2], [4, 5]],
    ]


def test_lengths_that_do_not_fit_are_errors_of_their_rows() -> None:
    table = pa.table({"ids": [[1, 2], [], [4, 5], list(range(9))], "mask": [[1, 1], [], [1], list(range(9))]})

    found = read(table, TOKENS, Mapping())

    assert [group.rows.tolist() for group in found.groups] == [[0]]
    assert found.errors == {
        1: "input 'ids': n is 0, at least 1 is needed",
        2: "input 'mask': n is 1, but 2 in another input",
        3: "input 'ids': n is 9, the model takes at most 8",
    }


@pytest.mark.parametrize(
    ("takes", "kind"), [("bytes", pa.binary()), ("bytes", pa.string()), ("text", pa.string()), ("text", pa.binary())]
)
def test_models_of_bytes_and_text_take_the_column_that_has_them(takes: str, kind: pa.DataType) -> None:
    table = pa.table({"id": [1, 2, 3], "content": pa.array(["a", None, "c"], pa.string()).cast(kind)})

    found = read(table, model(takes=takes))

    (group,) = found.groups
    assert group.inputs == (["a", "c"] if takes == "text" else [b"a", b"c"])
    assert group.rows.tolist() == [0, 2]
    assert found.errors == {1: "column 'content' is null"}


def test_text_that_is_no_utf8_is_an_error_of_its_row() -> None:
    found = read(pa.table({"text": pa.array([b" fine ", b"\xff"], pa.binary())}), model(takes="text"), Mapping())

    assert found.groups[0].inputs == [" fine "]
    assert found.errors == {1: r"column 'text': '\\xff' is no string"}


def test_files_keep_their_path_unless_keys_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b" \xff\x00 pixels")
    source = open_source(str(tmp_path))
    binding = bind(Mapping(), source.schema, model(takes="bytes"))

    found = binding.read(next(iter(source.chunks(10, columns=binding.columns))))

    assert found.keys.to_pydict() == {"path": ["a.png"]}
    assert found.groups[0].inputs == [b" \xff\x00 pixels"]


# --- what is refused before the first row ----------------------------------------------------


@pytest.mark.parametrize(("mapping", "table", "spec", "words"), [
    (Mapping(keys=("idd",)), columns(), FOUR, 'key unknown column "idd"; did you mean "id"'),
    (Mapping({"x": ("f1", "f22")}), columns(), FOUR, 'unknown column "f22"; did you mean "f2"'),
    (Mapping({"xx": ("f*",)}), columns(), FOUR, 'unknown input "xx"'),
    (Mapping({"x": ("g*",)}), columns(), FOUR, "no column matches 'g*'; columns: id, f0"),
    (Mapping({"x": ("f0", "f1")}), columns(), FOUR, "takes 4 values per row (4), and f0, f1 give 2"),
    (Mapping(), columns(), FOUR, "5 numeric columns that are no keys stand there: id, f0, f1, f2, f3; name the key columns"),
    (Mapping(keys=("id", "id")), columns(), FOUR, "key column 'id' is named twice"),
    (Mapping(keys=("id",)), pa.table([[1], [2], [1.0]], ["id", "id", "x"]), model(TensorSpec("x", "float32")), "column 'id' is 2 times"),
    (Mapping({"x": ("f0", "f1", "f2", "s")}), columns(s=["a", "b", "c"]), FOUR, "column 's' is string, and input 'x' takes float32"),
    (Mapping({"x": ("v",)}), columns(v=pa.array([[1.0]] * 3, pa.list_(pa.float32(), 1))), FOUR, "v give 1"),
    (Mapping({"x": ("t",)}), pa.table({"t": pa.array([1], pa.timestamp("s"))}), model(TensorSpec("x", "int64")), "is timestamp"),
    (Mapping(), columns(), TOKENS, "input 'ids' of model 'mlp' has no column of its name; map it: ids=COLUMN"),
    (Mapping(), columns(), model(takes="bytes"), "takes bytes, and which column holds it is not clear among none"),
    (Mapping({"b": ("f0",)}), columns(), model(takes="bytes"), "takes bytes, and f0 is float"),
    (Mapping({"x": ("f0",)}), columns(), model(TensorSpec("x", "bool")), "column 'f0' is float, and input 'x' takes bool"),
    (Mapping({"x": ("v",)}), pa.table({"v": [[[1.0]]]}), model(TensorSpec("x", "float32", (4,))), "lists in a column cannot give"),
])  # fmt: skip
def test_a_mapping_that_cannot_be_is_refused_when_it_is_bound(
    mapping: Mapping, table: pa.Table, spec: ModelSpec, words: str
) -> None:
    with pytest.raises(RunError) as caught:
        bind(mapping, table.schema, spec)

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# --- whom a bad value costs ------------------------------------------------------------------


def test_nulls_and_wrong_lengths_cost_their_rows() -> None:
    table = pa.table({
        "id": [1, 2, 3, 4, None],
        "v": pa.array([[1.0, 2, 3, 4], None, [1.0, 2, 3], [1.0, 2, None, 4], [5.0, 6, 7, 8]]),
    })  # fmt: skip

    found = read(table)

    assert found.errors == {
        1: "column 'v' is null",
        2: "column 'v' holds 3 values, 4 are wanted",
        3: "a value of column 'v' is null",
    }
    assert found.groups[0].rows.tolist() == [0, 4]
    assert isinstance(found.groups[0].inputs, dict)
    assert found.groups[0].inputs["x"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert found.keys["id"].to_pylist() == [1, 2, 3, 4, None]


@pytest.mark.parametrize(("values", "dtype", "bad"), [
    (pa.array([1, 255, 256, -1]), "uint8", {2, 3}),
    (pa.array([1.0, 1.5, float("nan"), 1e300]), "int32", {1, 2, 3}),
    (pa.array([1.0, 1e300, float("inf"), float("nan")]), "float32", {1}),
    (pa.array([1e5, 1.0]), "float16", {0}),
    (pa.array([2**63, 5], pa.uint64()), "int64", {0}),
    (pa.array([9.3e18, 1.0]), "int64", {0}),
    (pa.array([True, False, None]), "float32", {2}),
    (pa.array([1, 2, None], pa.int8()), "int64", {2}),
    (pa.array(["1", "2"]).cast(pa.int64()).dictionary_encode(), "float32", set()),
    (pa.array([None, None]), "float32", {0, 1}),
])  # fmt: skip
def test_a_value_that_is_no_value_of_the_inputs_dtype_costs_its_row(
    values: pa.Array, dtype: str, bad: set[int]
) -> None:
    found = read(pa.table({"x": values}), model(TensorSpec("x", dtype)), Mapping())

    assert set(found.errors) == bad
    good = [row for row in range(len(values)) if row not in bad]
    for group in found.groups:
        assert isinstance(group.inputs, dict)
        assert group.inputs["x"].dtype == dtype
        np.testing.assert_array_equal(group.inputs["x"], np.array([values[row].as_py() for row in good]).astype(dtype))


def test_values_outside_the_manifests_bounds_cost_their_rows() -> None:
    bounded = TensorSpec("x", "float32", (2,), minimum=0, maximum=9, finite=True)
    rows = [[1.0, 2.0], [float("nan"), 1.0], [-1.0, 1.0], [1.0, 10.0]]

    found = read(pa.table({"x": rows}), model(bounded), Mapping())

    assert set(found.errors) == {1, 2, 3}
    assert "NaN" in found.errors[1]
    ragged = TensorSpec("x", "float32", ("n",), maximum=9)
    found = read(pa.table({"x": [[1.0], [10.0, 1.0], [], [2.0]]}), model(ragged), Mapping())
    assert set(found.errors) == {1, 2}


def test_a_wrong_value_far_into_a_csv_costs_its_row_and_is_told_with_its_number(tmp_path: Path) -> None:
    rows, wrong = 1_000_100, 1_000_001
    lines = [f"{i},{i % 97}.25" for i in range(rows)]
    lines[wrong] = f"{wrong},abc"
    lines[7] = "7, 7.5 "
    lines[8] = "8,1e400"
    lines[9] = "9,"
    lines[500_000] = "many,1"
    lines[11] = "11,nan"
    (tmp_path / "a.csv").write_text("id,x\n" + "\n".join(lines))
    source = open_source(str(tmp_path / "a.csv"))
    binding = bind(Mapping(keys=("id",)), source.schema, model(TensorSpec("x", "float32")))

    errors, good, keys = dict[int, str](), 0, 0
    for chunk in source.chunks(65_536, columns=binding.columns):
        found = binding.read(chunk)
        errors |= {chunk.first_row + row: text for row, text in found.errors.items()}
        good += sum(len(group.rows) for group in found.groups)
        keys += sum(key.as_py() or 0 for key in found.keys["id"][:1])

    assert errors == {
        8: "column 'x': '1e400' is no float32",
        9: "column 'x' is null",
        500_000: "key column 'id': 'many' is no int64",
        wrong: "column 'x': 'abc' is no float32",
    }
    assert good == rows - len(errors)
    assert keys == sum(range(0, rows, 65_536))


def test_keys_written_oddly_in_a_csv_come_out_as_they_went_in(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("zip,price,x\n00501,1.50,1\n10115,2.00,2\n")
    source = open_source(str(tmp_path / "a.csv"))

    found = bind(Mapping({"x": ("x",)}, ("zip", "price")), source.schema, model(TensorSpec("x", "float32"))).read(
        next(iter(source.chunks(5)))
    )

    assert found.keys.to_pydict() == {"zip": ["00501", "10115"], "price": ["1.50", "2.00"]}


def test_keys_that_occur_twice_are_carried_along() -> None:
    found = read(pa.table({"id": [7, 7], "x": [1.0, 2.0]}), model(TensorSpec("x", "float32")))

    assert found.keys["id"].to_pylist() == [7, 7]
    assert found.errors == {}


# --- mappings as words and TOML --------------------------------------------------------------


def test_words_stand_over_the_file() -> None:
    toml = 'keys = ["id"]\noutputs = "raw"\n[inputs]\nx = ["a", "b"]\ny = "c"\n'

    assert parse([], toml) == Mapping({"x": ("a", "b"), "y": ("c",)}, ("id",), "raw")
    assert parse(["x=f*, g"], toml, keys=["k,l"], outputs=["score=y[1]"]) == Mapping(
        {"x": ("f*", "g"), "y": ("c",)}, ("k", "l"), {"score": "y[1]"}
    )
    assert parse() == Mapping()


@pytest.mark.parametrize(("given", "words"), [
    ({"inputs": ["x"]}, "write INPUT=COLUMN"),
    ({"inputs": ["x="]}, "write INPUT=COLUMN"),
    ({"keys": ["id", "id"]}, "'id' is named twice"),
    ({"outputs": ["best"]}, "outputs 'best' is not understood"),
    ({"outputs": ["a=y", "raw"]}, "output 'raw' is not understood"),
    ({"toml": "keys = ["}, "is no TOML"),
    ({"toml": "kees = []"}, 'unknown key "kees"; did you mean "keys"'),
    ({"toml": "keys = 5"}, "is not understood"),
])  # fmt: skip
def test_words_that_are_not_understood_are_told(given: dict[str, Any], words: str) -> None:
    with pytest.raises(RunError, match=words):
        parse(**given)
