"""What a run writes for a chunk: its key columns, the model's answers, the model's version, and why a row has none.

A Layout is one run's columns, the same for all its chunks whatever is in them; a Page collects one chunk's answers in any
order. Neither knows jobs or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from broker.errors import RunError
from broker.spec import ModelSpec
from operators.runs.data.answers import Answer, answers
from operators.runs.data.binding import Read

VERSION, ERROR = "model_version", "error"


class Layout(msgspec.Struct, frozen=True, eq=False):
    """Made by `layout`. `schema`: keys, answers, model_version, error; every part of the run has it."""

    answers: tuple[Answer, ...]
    schema: pa.Schema

    def page(self, read: Read) -> Page:
        """An empty page for a chunk; the rows that could not be read have their errors already."""
        return Page(self, read)


class Page:
    """The answers of one chunk. Each row gets either `put`, once, or `fail`; `rows` are places in the chunk."""

    def __init__(self, layout: Layout, read: Read) -> None:
        self._layout = layout
        self._keys = read.keys
        self._rows = read.rows
        self._errors = dict(read.errors)
        self._columns = [answer.column(read.rows) for answer in layout.answers]
        self._is_put = np.zeros(read.rows, bool)

    @property
    def failed(self) -> dict[int, str]:
        return dict(self._errors)

    def put(self, rows: NDArray[np.int64], outputs: Mapping[str, NDArray[Any]]) -> None:
        """Tensors of a job over these rows: output -> (len(rows), ...). A row that failed stays failed."""
        for column in self._columns:
            column.put(rows, outputs)
        self._is_put[rows] = True

    def put_values(self, rows: NDArray[np.int64], values: Sequence[Any]) -> None:
        """What a postprocess gave for these rows, one plain value for each."""
        for column in self._columns:
            column.put_values(rows, values)
        self._is_put[rows] = True

    def fail(self, row: int, text: str) -> None:
        self._errors[row] = text

    def missing(self) -> NDArray[np.int64]:
        """Rows that have neither an answer nor an error."""
        mask = ~self._is_put
        if self._errors:
            mask[np.fromiter(self._errors, np.int64, len(self._errors))] = False
        return np.flatnonzero(mask)

    def table(self, version: str) -> pa.Table:
        """The finished page. Raises RunError when a row has neither an answer nor an error."""
        if len(missing := self.missing()):
            raise RunError(
                f"{len(missing)} rows have no answer, the first is row {missing[0]} of its chunk; resume the run"
            )
        rows = self._rows
        failed = np.zeros(rows, bool)
        errors = pa.nulls(rows, pa.string())
        if self._errors:
            failed[np.fromiter(self._errors, np.int64, len(self._errors))] = True
            errors = pa.array([self._errors.get(row) for row in range(rows)], pa.string())
        answered = [column.array(failed if self._errors else None) for column in self._columns]
        arrays = [*self._keys.columns, *answered, pa.repeat(pa.scalar(version), rows), errors]
        return pa.table(arrays, schema=self._layout.schema)


def layout(spec: ModelSpec, outputs: str | Mapping[str, str], keys: pa.Schema) -> Layout:
    """The columns that `outputs` of a Mapping stand for:

    - "auto": `prediction` and `confidence`. A float vector per row: the place of its largest value and that value; one value
      per row: the value, without confidence (where the model also gives a vector of floats: its largest); any other shape: a
      list. A postprocess: the value as text, JSON unless it is a text; of a dict with `prediction` or `label`, that, and as
      confidence its `confidence`, `score` or `probability`.
    - "raw": a column per output; a postprocess: `value` as JSON.
    - {column: expression}: see `answers`.

    Raises RunError naming the output that is not there or the column that is there twice.
    """
    made = answers(spec, outputs)
    fields = [
        *keys,
        *(pa.field(answer.name, answer.type) for answer in made),
        pa.field(VERSION, pa.string()),
        pa.field(ERROR, pa.string()),
    ]
    names = [field.name for field in fields]
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise RunError(
            f"the output would have column {twice[0]!r} twice; leave that key out, or name outputs yourself: COLUMN=EXPRESSION"
        )
    return Layout(made, pa.schema(fields))
