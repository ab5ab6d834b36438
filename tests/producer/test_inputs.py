"""Inputs against a spec: what fits is laid out on the wire, what does not is refused with the mend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from broker import codec
from broker.errors import InvalidInput
from broker.messages import Kind
from broker.spec import TensorSpec
from producer.inputs import Form
from tests.producer.fake import model_spec

ROW = np.arange(4, dtype=np.float32)
TWO = (TensorSpec("ids", "int64", ("length",)), TensorSpec("mask", "int64", ("length",)))


def form(*tensors: TensorSpec, **changes: Any) -> Form:
    return Form(model_spec(**({"inputs": tensors} if tensors else {}), **changes))


def test_one_row_and_many_rows_are_told_apart_by_rank() -> None:
    # when
    one, many = form().fit(ROW), form().fit(np.stack([ROW, ROW]))
    # then
    assert (one.rows, one.is_one_row) == (1, True)
    assert (many.rows, many.is_one_row) == (2, False)
    assert one.descriptor == many.descriptor == codec.pack_columns([("x", "float32", (4,))])
    assert b"".join([many.data]) == ROW.tobytes() * 2


def test_the_second_job_of_a_shape_is_laid_out_like_the_first() -> None:
    # given
    known = form()
    first = known.fit(ROW)
    # when
    second = known.fit(ROW + 1)
    # then
    assert second[:4] == first[:4]
    assert second.data.tobytes() == (ROW + 1).tobytes()


def test_a_strided_array_is_laid_out_row_by_row() -> None:
    # given
    strided = np.arange(8, dtype=np.float32)[::2]
    # then
    assert form().fit(strided).data.tobytes() == strided.tobytes()


@pytest.mark.parametrize("value", [[1, 2, 3, 4], [1.5, 2, 3, 4], (0.1, 0.2, 0.3, 0.4)])
def test_python_numbers_are_cast(value: Any) -> None:
    assert form().fit(value).data.dtype == np.float32


def test_a_dict_is_laid_out_in_the_order_of_the_spec() -> None:
    # when
    fitted = form(*TWO).fit({"mask": [1, 1], "ids": [7, 8]})
    # then
    assert np.frombuffer(fitted.data, "int64").tolist() == [7, 8, 1, 1]


def test_a_scalar_input_takes_a_number_and_rows_of_numbers() -> None:
    scalar = form(TensorSpec("x", "float32"))
    assert (scalar.fit(3.5).rows, scalar.fit([1.0, 2.0]).rows) == (1, 2)


def test_bytes_and_text_go_as_they_are() -> None:
    assert form(takes="bytes").fit(b"ab")[:2] == (Kind.BYTES, 1)
    assert form(takes="text").fit("å").data == "å".encode()


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (np.zeros(4), r"input 'x' has dtype float64, wanted float32; convert it with .astype\(\"float32\"\)"),
        (np.zeros(4, ">f4"), "has dtype >f4"),
        (np.zeros(5, "f4"), r"has shape \(5,\); wanted \(4,\) per row"),
        (np.zeros((1, 1, 4), "f4"), "has rank 3"),
        (np.float32(1), "has rank 0"),
        (np.zeros((0, 4), "f4"), "is an empty batch"),
        ([], "has shape"),
        ([[1, 2], [3]], "is not an array"),
        (["a", "b", "c", "d"], "send numbers"),
        ([None] * 4, "send numbers"),
        ([True] * 4, "do not fit"),
        ([1e300, 0, 0, 0], "do not fit"),
        ("text", "takes float32, and text came"),
        (b"bytes", "and bytes came"),
        ({"y": ROW}, 'unknown input "y"'),
        ({}, "needs input x too"),
        ({"x": ROW, "extra": ROW}, 'unknown input "extra"'),
    ],
)  # fmt: skip
def test_what_does_not_fit_one_tensor_is_refused(inputs: Any, text: str) -> None:
    with pytest.raises(InvalidInput, match=text) as caught:
        form().fit(inputs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ([1, 2], "pass a dict of arrays"),
        ({"id": [1], "mask": [1]}, 'unknown input "id"; did you mean "ids"?'),
        ({"ids": [1]}, "needs input mask too"),
        ({"ids": [1, 2], "mask": [1]}, "length is 1, but 2 in another input"),
        ({"ids": [[1], [2]], "mask": [1]}, "give all inputs the same rows"),
        ({"ids": [[1], [2]], "mask": [[1]]}, "give all inputs the same rows"),
        ({"ids": [1] * 17, "mask": [1] * 17}, "the model takes at most 16"),
        ({"ids": np.zeros(0, "i8"), "mask": np.zeros(0, "i8")}, "length is 0"),
        ({"ids": [1.5], "mask": [1]}, "do not fit"),
    ],
)
def test_what_does_not_fit_two_tensors_is_refused(inputs: Any, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        form(*TWO, buckets={"length": (8, 16)}).fit(inputs)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32([0, 1, 2, np.nan]), "NaN or infinity"),
        (np.float32([0, 1, 2, -1]), "under its minimum 0"),
        (np.float32([0, 1, 2, 9]), "over its maximum 5"),
    ],
)
def test_values_out_of_bounds_are_refused_or_flagged(value: Any, text: str) -> None:
    # given
    bounds = {"minimum": 0.0, "maximum": 5.0, "finite": True}
    # then
    with pytest.raises(InvalidInput, match=text):
        form(TensorSpec("x", "float32", (4,), **bounds)).fit(value)
    flagged = form(TensorSpec("x", "float32", (4,), on_violation="flag", **bounds)).fit(value)
    assert flagged.warning is not None
    assert text in flagged.warning


@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: {"x": one}, lambda one: [one, one]])
def test_a_masked_array_is_refused_because_its_mask_would_be_lost(wrap: Any) -> None:
    with pytest.raises(InvalidInput, match=r"input 'x' is a masked array; fill the mask first, with \.filled"):
        form().fit(wrap(np.ma.masked_array(ROW, [0, 0, 0, 1])))


def test_text_with_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InvalidInput, match="is not valid Unicode: character 2 is a lone surrogate"):
        form(takes="text").fit("ab\ud800")


@pytest.mark.parametrize(
    ("takes", "inputs", "text"),
    [
        ("text", b"x", "takes text, a str, and bytes came; decode it first"),
        ("bytes", "x", "takes bytes for its preprocess, and text came; encode it first"),
        ("bytes", ROW, "and a ndarray came"),
    ],
)
def test_raw_input_of_the_wrong_kind_is_refused(takes: str, inputs: Any, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        form(takes=takes).fit(inputs)
