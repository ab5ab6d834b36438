"""What comes back: an outcome's bytes as numpy arrays, plain Python and timings, or as the error it stands for."""

from __future__ import annotations

from typing import Any, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from broker import outcome_codec
from broker.errors import JobCancelled, JobDead, JobExpired, JobFailed
from broker.messages import Outcome, Status, Timings

_FAILURES: dict[Status, type[JobFailed]] = {
    Status.FAILED: JobFailed,
    Status.DEAD: JobDead,
    Status.EXPIRED: JobExpired,
    Status.CANCELLED: JobCancelled,
}
_value = msgspec.msgpack.Decoder()


class Result(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A finished job.

    `outputs`: name -> numpy array, (rows, ...), without the row axis when the inputs had none; empty for models with
    a postprocess, whose plain Python value is `value`. `row_errors`: row -> text of the rows that failed alone.
    `flags`: row -> text of the rows whose outputs broke a bound that only flags (one that inputs broke is told at submit,
    in `handle.warning`). `timings` in ms. `index`: place in what `map`
    was given, -1 elsewhere.
    """

    id: str
    outputs: dict[str, NDArray[Any]]
    value: Any
    timings: Timings
    version: str
    attempt: int
    row_errors: dict[int, str]
    flags: dict[int, str]
    index: int = -1

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Output `name`. Raises KeyError naming those there are."""
        try:
            return self.outputs[name]
        except KeyError:
            raise KeyError(f"no output {name!r}; outputs: {', '.join(self.outputs) or 'none, see .value'}") from None


def is_elsewhere(blob: bytes) -> bool:
    """Whether this outcome is only a notice: too large for a reply, its body is the stored result."""
    return bool(blob[1] & outcome_codec.ELSEWHERE)


def read(model: str, blob: bytes, index: int = -1) -> Result:
    """Raises JobFailed, JobDead, JobExpired or JobCancelled for a job that ended so, DecodeError for garbled bytes."""
    outcome = outcome_codec.decode(blob)
    if outcome.status is not Status.DONE:
        _fail(model, outcome)
    note = outcome.note
    value = None
    outputs: dict[str, NDArray[Any]] = {}
    row_errors: dict[int, str] = {}
    flags: dict[int, str] = {}
    data = outcome.data
    if note:
        if note.get("is_value"):
            value, data = _value.decode(data), b""
        if "row_errors" in note:
            row_errors = {int(row): str(text) for row, text in note["row_errors"].items()}
        if "flags" in note:
            flags = {int(row): str(text) for row, text in note["flags"].items()}
    if outcome.columns:
        at, rows = 0, outcome.rows
        for column in outcome.columns:
            count = rows * column.row_bytes
            # From a bytearray, because arrays over bytes are read-only, which surprises whoever works on in place.
            array = np.frombuffer(bytearray(data[at : at + count]), column.dtype)
            shape = column.shape if outcome.is_one_row else (rows, *column.shape)
            outputs[column.name] = array if array.shape == shape else array.reshape(shape)
            at += count
    return Result(
        f"{model}:{outcome.id}", outputs, value, outcome.timings, outcome.version, outcome.attempt,
        row_errors, flags, index,
    )  # fmt: skip


def _fail(model: str, outcome: Outcome) -> NoReturn:
    reason = str(outcome.note.get("reason", ""))
    text = str(outcome.note.get("error", "")) or reason or "no reason was given"
    word = outcome.status.name.lower()
    raise _FAILURES[outcome.status](
        f"job {model}:{outcome.id} is {word}: {text}", job_id=f"{model}:{outcome.id}", reason=reason,
        attempt=outcome.attempt,
    )  # fmt: skip
