"""Answers as columns: what "auto", "raw" and expressions make of outputs, and that no row is left without one or an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from broker.errors import RunError
from broker.spec import ModelSpec, TensorSpec
from operators.runs.data.binding import Read
from operators.runs.data.scored import Layout, layout

KEYS = pa.schema([("id", pa.int64())])


def model(*outputs: TensorSpec, has_postprocess: bool = False) -> ModelSpec:
    return ModelSpec(
        name="mlp",
        version="v1",
        takes="tensors",
        inputs=(),
        outputs=outputs,
        max_rows=9,
        has_postprocess=has_postprocess,
    )


VECTOR = model(TensorSpec("y", "float32", (3,)))


def read(rows: int, **errors: str) -> Read:
    keys = pa.table({"id": range(rows)}, schema=KEYS)
    return Read((), {int(row[1:]): text for row, text in errors.items()}, keys, rows)


def scored(made: Layout, outputs: dict[str, Any], rows: int = 2) -> list[dict[str, Any]]:
    page = made.page(read(rows))
    page.put(np.arange(rows), {name: np.array(value, np.float32) for name, value in outputs.items()})
    return [{name: value for name, value in row.items() if name not in ("id", "model_version", "error")}
            for row in page.table("v1").to_pylist()]  # fmt: skip


def test_a_page_is_filled_in_any_order_and_keeps_keys_of_rows_that_failed() -> None:
    page = layout(VECTOR, "auto", KEYS).page(read(4, r1="column 'x' is null"))

    page.put(np.array([3]), {"y": np.array([[0, 0, 7]], np.float32)})
    page.put(np.array([0]), {"y": np.array([[5, 1, 2]], np.float32)})
    assert page.missing().tolist() == [2]
    page.fail(2, "the model said no")

    assert page.table("v1").to_pylist() == [
        {"id": 0, "prediction": 0, "confidence": 5.0, "model_version": "v1", "error": None},
        {"id": 1, "prediction": None, "confidence": None, "model_version": "v1", "error": "column 'x' is null"},
        {"id": 2, "prediction": None, "confidence": None, "model_version": "v1", "error": "the model said no"},
        {"id": 3, "prediction": 2, "confidence": 7.0, "model_version": "v1", "error": None},
    ]
    assert page.failed == {1: "column 'x' is null", 2: "the model said no"}


def test_a_page_with_a_row_that_has_nothing_is_not_given() -> None:
    page = layout(VECTOR, "auto", KEYS).page(read(2))
    page.put(np.array([1]), {"y": np.zeros((1, 3), np.float32)})

    with pytest.raises(RunError, match="1 rows have no answer, the first is row 0"):
        page.table("v1")


def test_every_part_has_the_same_schema_whatever_is_in_it() -> None:
    for spec, outputs in (
        (VECTOR, "auto"),
        (VECTOR, "raw"),
        (model(TensorSpec("y", "int64", ("n", 2))), "raw"),
        (model(has_postprocess=True), "auto"),
    ):
        made = layout(spec, outputs, KEYS)
        all_failed = made.page(read(2, r0="a", r1="b")).table("v1")
        assert all_failed.schema == made.schema
        assert all(
            value is None
            for row in all_failed.drop_columns(["id", "model_version", "error"]).to_pylist()
            for value in row.values()
        )


@pytest.mark.parametrize(("spec", "outputs", "given", "wanted"), [
    (VECTOR, "auto", {"y": [[1, 9, 2], [4, 3, 2]]}, [{"prediction": 1, "confidence": 9}, {"prediction": 0, "confidence": 4}]),
    (model(TensorSpec("y", "float32")), "auto", {"y": [1, 2]}, [{"prediction": 1, "confidence": None}, {"prediction": 2, "confidence": None}]),
    (model(TensorSpec("y", "float32", (1,))), "auto", {"y": [[1], [2]]}, [{"prediction": 1, "confidence": None}, {"prediction": 2, "confidence": None}]),
    (model(TensorSpec("label", "int64"), TensorSpec("p", "float32", (2,))), "auto", {"label": [1, 0], "p": [[0, 1], [3, 2]]},
     [{"prediction": 1, "confidence": 1}, {"prediction": 0, "confidence": 3}]),
    (model(TensorSpec("box", "float32", (2, 2))), "auto", {"box": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]},
     [{"prediction": [[1, 2], [3, 4]], "confidence": None}, {"prediction": [[5, 6], [7, 8]], "confidence": None}]),
    (VECTOR, "raw", {"y": [[1, 9, 2], [4, 3, 2]]}, [{"y": [1, 9, 2]}, {"y": [4, 3, 2]}]),
    (VECTOR, {"best": "argmax(y)", "how": "max( y )", "third": "y[2]", "all": "y"}, {"y": [[1, 9, 2], [4, 3, 2]]},
     [{"best": 1, "how": 9, "third": 2, "all": [1, 9, 2]}, {"best": 0, "how": 4, "third": 2, "all": [4, 3, 2]}]),
])  # fmt: skip
def test_outputs_become_the_columns_that_were_asked_for(
    spec: ModelSpec, outputs: Any, given: dict[str, Any], wanted: list[dict[str, Any]]
) -> None:
    assert scored(layout(spec, outputs, KEYS), given) == wanted


def test_rows_of_several_lengths_become_lists() -> None:
    page = layout(model(TensorSpec("y", "float32", ("n",))), "raw", KEYS).page(read(3, r1="none"))

    page.put(np.array([0]), {"y": np.array([[1, 2]], np.float32)})
    page.put(np.array([2]), {"y": np.array([[3]], np.float32)})

    assert page.table("v1")["y"].to_pylist() == [[1, 2], None, [3]]


@pytest.mark.parametrize(("outputs", "wanted"), [
    ("auto", [("cat", 0.5), ("dog", None), ('{"other":1}', None), ("plain", None), ("[1,2]", None)]),
    ("raw", [('{"label":"cat","score":0.5}',), ('{"prediction":"dog","label":"no"}',), ('{"other":1}',), ("plain",), ("[1,2]",)]),
    ({"a": "float(score)", "b": "other", "c": "int(1)", "d": "value"},
     [(0.5, None, None, '{"label":"cat","score":0.5}'), (None, None, None, '{"prediction":"dog","label":"no"}'), (None, "1", None, '{"other":1}'),
      (None, None, None, "plain"), (None, None, 2, "[1,2]")]),
])  # fmt: skip
def test_values_of_a_postprocess_become_text_or_their_fields(outputs: Any, wanted: list[tuple[Any, ...]]) -> None:
    made = layout(model(has_postprocess=True), outputs, KEYS)
    page = made.page(read(5))

    page.put_values(
        np.arange(5),
        [{"label": "cat", "score": 0.5}, {"prediction": "dog", "label": "no"}, {"other": 1}, "plain", [1, 2]],
    )

    assert [tuple(row.values())[1:-2] for row in page.table("v1").to_pylist()] == wanted


def test_without_key_columns_there_are_as_many_rows() -> None:
    page = layout(VECTOR, "auto", pa.schema([])).page(Read((), {}, pa.schema([]).empty_table(), 3))

    page.put(np.arange(3), {"y": np.eye(3, dtype=np.float32)})

    assert page.table("v1")["prediction"].to_pylist() == [0, 1, 2]


@pytest.mark.parametrize(("spec", "outputs", "words"), [
    (VECTOR, {"a": "argmax(z)"}, 'unknown output "z"'),
    (VECTOR, {"a": "y[3]"}, "does not stand in y"),
    (VECTOR, {"a": "float(y)"}, "is for values of a postprocess"),
    (VECTOR, {"id": "y"}, "column 'id' twice"),
    (VECTOR, {"error": "y"}, "column 'error' twice"),
    (model(TensorSpec("y", "float32", (2, 2))), {"a": "max(y)"}, "needs a vector per row"),
    (model(has_postprocess=True), {"a": "argmax(y)"}, "gives values"),
])  # fmt: skip
def test_an_output_that_cannot_be_is_told_before_the_first_row(spec: ModelSpec, outputs: Any, words: str) -> None:
    with pytest.raises(RunError) as caught:
        layout(spec, outputs, KEYS)

    assert words in str(caught.value)
