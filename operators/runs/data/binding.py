"""A mapping tied to a source's schema and a model's spec: chunks into what a job carries, rows that cannot be into errors.

Opens no file and submits nothing. All that can be known before the first row is told by `bind`.
"""

from __future__ import annotations

from collections.abc import Mapping as Named
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from broker.spec import ModelSpec, TensorSpec
from operators.runs.data.bounds import breaks
from operators.runs.data.convert import fitted
from operators.runs.data.mapping import Mapping
from operators.runs.data.resolve import resolve
from operators.runs.data.rows import Rows
from operators.runs.data.slices import Chunk
from operators.runs.data.stack import lists, plain, stacked


class Group(msgspec.Struct, frozen=True, eq=False):
    """Rows that may share a job: `rows` are their places in the chunk, ascending.

    `inputs`: for models that take tensors, input -> array (len(rows), ...), C-contiguous and of the model's dtype; for models
    that take bytes or text, a list of one value per row, each a job of its own.
    """

    rows: NDArray[np.int64]
    inputs: dict[str, NDArray[Any]] | list[bytes] | list[str]


class Read(msgspec.Struct, frozen=True, eq=False):
    """A chunk as the model takes it. Every row is in one group or in `errors` (row of the chunk -> why).

    `groups`: one, unless rows of a list column differ in length; none when no row is good. `keys`: the key columns of all
    rows, good or not, in the types of `Binding.key_schema`.
    """

    groups: tuple[Group, ...]
    errors: dict[int, str]
    keys: pa.Table
    rows: int  # of the chunk; a table without key columns does not know


class Binding(msgspec.Struct, frozen=True, eq=False):
    """Made by `bind`. `inputs`: model input -> its columns; `columns`: all that must be read, to be given to `Source.chunks`."""

    spec: ModelSpec
    inputs: dict[str, tuple[str, ...]]
    key_schema: pa.Schema

    @property
    def columns(self) -> tuple[str, ...]:
        """May be empty for no model; each column once."""
        named = [column for columns in self.inputs.values() for column in columns]
        return tuple(dict.fromkeys([*named, *self.key_schema.names]))

    def read(self, chunk: Chunk) -> Read:
        """Converts a chunk that holds `columns`. A row that does not fit is an error of that row, never of the run."""
        errors = dict(chunk.errors)
        keys = self._keys(chunk, errors)
        if self.spec.takes == "tensors":
            groups = self._tensors(chunk.table, errors)
        else:
            (column,) = self.inputs[self.spec.takes]
            values, faults = plain(chunk.table[column], column, as_text=self.spec.takes == "text")
            _note(errors, faults)
            rows = _good(chunk.rows, errors)
            groups = (Group(rows, [values[row] for row in rows.tolist()]),) if len(rows) else ()
        return Read(groups, errors, keys, chunk.rows)

    def _keys(self, chunk: Chunk, errors: dict[int, str]) -> pa.Table:
        arrays = []
        for field in self.key_schema:
            array, faults = fitted(chunk.table[field.name], field.type, f"key column {field.name!r}")
            _note(errors, faults)
            arrays.append(array)
        return pa.table(arrays, schema=self.key_schema)

    def _tensors(self, table: pa.Table, errors: dict[int, str]) -> tuple[Group, ...]:
        taken = []
        for tensor in self.spec.inputs:
            columns = self.inputs[tensor.name]
            rows = _of(table, tensor, columns)
            _note(errors, rows.faults)
            _note(errors, breaks(rows, tensor))
            taken.append(rows)
        return grouped(self.spec, taken, errors, table.num_rows)


def bind(mapping: Mapping, schema: pa.Schema, spec: ModelSpec) -> Binding:
    """Ties a mapping to a source and a model. What the mapping leaves out is found:

    - an input without columns takes the column of its name; where the model has one input and exactly as many numeric
      columns that are no keys as its row has values, those, in the source's order; else the only list column;
    - for models that take bytes or text, the column `content`, `text` or the only one of that type;
    - without keys, a source of files keeps `path`.

    Raises RunError: a column or input that is not there (with the nearest name), a type that cannot be converted, a
    number of values that is not the row's, a key named twice.
    """
    inputs, key_schema = resolve(mapping, schema, spec)
    return Binding(spec, inputs, key_schema)


def grouped(spec: ModelSpec, taken: list[Rows], errors: dict[int, str], count: int) -> tuple[Group, ...]:
    """The good rows, one group for each combination of lengths where dimensions vary. Adds rows whose lengths are wrong."""
    names = [tensor.name for tensor in spec.inputs]
    if not any(rows.widths is not None for rows in taken):
        good = _good(count, errors)
        if not len(good):
            return ()
        return (Group(good, {name: rows.take(good) for name, rows in zip(names, taken, strict=True)}),)
    dims = dict[str, NDArray[np.int64]]()
    for tensor, rows in zip(spec.inputs, taken, strict=True):
        if rows.widths is not None:
            _note(errors, _lengths_that_break(spec, tensor, rows.widths, dims, errors))
    good = _good(count, errors)
    widths = np.stack([rows.widths[good] for rows in taken if rows.widths is not None], axis=1)
    sorts, place = np.unique(widths, axis=0, return_inverse=True)
    return tuple(
        Group(chosen, {name: rows.take(chosen) for name, rows in zip(names, taken, strict=True)})
        for sort in range(len(sorts))
        if len(chosen := good[place.reshape(-1) == sort])
    )


def _of(table: pa.Table, tensor: TensorSpec, columns: tuple[str, ...]) -> Rows:
    first = table[columns[0]]
    if len(columns) == 1 and pa.types.is_nested(first.type):
        return lists(first, tensor, columns[0])
    return stacked([(name, table[name]) for name in columns], tensor)


def _lengths_that_break(
    spec: ModelSpec,
    tensor: TensorSpec,
    widths: NDArray[np.int64],
    dims: dict[str, NDArray[np.int64]],
    errors: Named[int, str],
) -> dict[int, str]:
    dim = next(str(dim) for dim in tensor.shape if isinstance(dim, str))
    faults = dict[int, str]()
    most = spec.buckets.get(dim, (0,))[-1]
    for row in np.flatnonzero((widths < 1) | ((widths > most) if most else False)).tolist():
        faults[row] = f"input {tensor.name!r}: {dim} is {widths[row]}, " + (
            "at least 1 is needed" if widths[row] < 1 else f"the model takes at most {most}"
        )
    for row in np.flatnonzero(dims.setdefault(dim, widths) != widths).tolist():
        faults[row] = f"input {tensor.name!r}: {dim} is {widths[row]}, but {dims[dim][row]} in another input"
    return {row: text for row, text in faults.items() if row not in errors}


def _note(errors: dict[int, str], faults: Named[int, str]) -> None:
    """The first reason of a row stays."""
    for row, text in faults.items():
        errors.setdefault(row, text)


def _good(count: int, errors: Named[int, str]) -> NDArray[np.int64]:
    mask = np.ones(count, bool)
    if errors:
        mask[np.fromiter(errors, np.int64, len(errors))] = False
    return np.flatnonzero(mask)
