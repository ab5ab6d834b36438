"""Model outputs as columns. One Answer is one column of the output file: which output, and what of it.

Expressions, for `outputs = {column = "expression"}`:
    NAME            the output itself: one value per row, or a list
    NAME[3]         one element of a vector
    argmax(NAME)    the place of a vector's largest value       max(NAME)   that value
    float(a.b)      of a postprocess' value: the entry at this path as float, int or text; `a.b` alone is text, JSON unless it
    int(a.b)        is one; `value` is the whole value
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np
import pyarrow as pa

from broker.errors import RunError
from broker.settings import unknown
from broker.spec import ModelSpec, TensorSpec
from operators.runs.data.columns import Column, TensorColumn, ValueColumn

Verb = Literal["all", "element", "argmax", "max", "float", "int", "text"]
_CALL = re.compile(r"(argmax|max|float|int|text)\(\s*([^()\[\]]+?)\s*\)")
_ELEMENT = re.compile(r"([^()\[\]]+)\[(\d+)\]")
_OF_VALUES: dict[Verb, pa.DataType] = {"float": pa.float64(), "int": pa.int64(), "text": pa.string()}
_VERBS: dict[str, Verb] = {verb: verb for verb in _OF_VALUES}


class Answer(msgspec.Struct, frozen=True, eq=False):
    """One column. `source`: the output's name, or for a postprocess the path in its value, with other paths to try after |."""

    name: str
    verb: Verb
    source: str
    type: pa.DataType
    tensor: TensorSpec | None = None
    place: int = 0

    def column(self, rows: int) -> Column:
        if self.tensor is None:
            return ValueColumn(self.verb, self.source, self.type, rows)
        return TensorColumn(self.verb, self.tensor, self.type, self.place, rows)


def answers(spec: ModelSpec, outputs: str | Mapping[str, str]) -> tuple[Answer, ...]:
    """Raises RunError naming the output or expression that is not understood."""
    if isinstance(outputs, Mapping):
        return tuple(_expressed(spec, name, text.strip()) for name, text in outputs.items())
    if spec.has_postprocess:
        if outputs == "raw":
            return (Answer("value", "text", "", pa.string()),)
        return (
            Answer("prediction", "text", "prediction|label|", pa.string()),
            Answer("confidence", "float", "confidence|score|probability", pa.float64()),
        )
    if outputs == "raw":
        return tuple(_tensor(tensor.name, "all", tensor) for tensor in spec.outputs)
    return _auto(spec)


def _auto(spec: ModelSpec) -> tuple[Answer, ...]:
    first = spec.outputs[0]
    if is_vector(first):
        return (_tensor("prediction", "argmax", first), _tensor("confidence", "max", first))
    vectors = [tensor for tensor in spec.outputs if is_vector(tensor)]
    prediction = _tensor("prediction", "element" if is_one(first) else "all", first)
    if is_one(first) and vectors:
        return (prediction, _tensor("confidence", "max", vectors[0]))
    return (prediction, Answer("confidence", "float", "confidence", pa.float64(), None))


def is_one(tensor: TensorSpec) -> bool:
    """One value per row."""
    return all(dim == 1 for dim in tensor.shape)


def is_vector(tensor: TensorSpec) -> bool:
    """Several floats per row, one dimension."""
    return len(tensor.shape) == 1 and not is_one(tensor) and tensor.dtype.startswith("float")


def _tensor(name: str, verb: Verb, tensor: TensorSpec, place: int = 0) -> Answer:
    scalar = pa.from_numpy_dtype(np.dtype(tensor.dtype))
    kind = pa.int64() if verb == "argmax" else scalar
    if verb == "all":
        for dim in reversed(tensor.shape):
            kind = pa.list_(kind, dim) if isinstance(dim, int) else pa.list_(kind)
    return Answer(name, verb, tensor.name, kind, tensor, place)


def _expressed(spec: ModelSpec, name: str, text: str) -> Answer:
    call, element = _CALL.fullmatch(text), _ELEMENT.fullmatch(text)
    if spec.has_postprocess:
        of_value: Verb | None = _VERBS.get(call[1] if call else "text")
        if of_value is None or element:
            raise RunError(
                f"output {name!r}: {text!r} is not understood; model {spec.name!r} gives values: write a.b, float(a.b) or int(a.b)"
            )
        path = call[2] if call else text
        return Answer(name, of_value, "" if path == "value" else path, _OF_VALUES[of_value])
    wanted = call[2] if call else element[1].strip() if element else text
    tensor = next((tensor for tensor in spec.outputs if tensor.name == wanted), None)
    if tensor is None:
        known = [tensor.name for tensor in spec.outputs]
        raise RunError(f"output {name!r} = {text!r}: model {spec.name!r}: {unknown('output', wanted, known)}")
    if call and call[1] in ("float", "int", "text"):
        raise RunError(
            f"output {name!r}: {text!r} is for values of a postprocess; write {wanted}, {wanted}[0] or argmax({wanted})"
        )
    if element and (
        len(tensor.shape) != 1 or (isinstance(tensor.shape[0], int) and int(element[2]) >= tensor.shape[0])
    ):
        raise RunError(f"output {name!r}: {text!r} does not stand in {wanted}, whose rows are {tensor.shape}")
    if call and len(tensor.shape) != 1:
        raise RunError(f"output {name!r}: {text!r} needs a vector per row, and rows of {wanted} are {tensor.shape}")
    verb_of: Verb = "element" if element else "all"
    if call:
        verb_of = "argmax" if call[1] == "argmax" else "max"
    return _tensor(name, verb_of, tensor, int(element[2]) if element else 0)
