"""Real inputs from files, as the jobs that producers would make of them. Opens files, loads no model, sends nothing.

Tensors: .npy (one input) or .npz (arrays by the inputs' names), first axis rows. Bytes: a file is a job. Text: a file is a
job, or each line of a single file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.codec import ITEM_BYTES
from broker.errors import InvalidInput
from broker.messages import Column, Job, Kind, Signature
from broker.spec import ModelSpec
from workers.columns import input_columns

MOST_JOBS = 2048
MOST_BYTES = 256 << 20
NOTHING = Signature((), 0)


def read(path: Path, spec: ModelSpec) -> list[Job]:
    """Up to 2048 jobs of one row, evenly picked from what there is. Raises InvalidInput naming the file and the mend."""
    if not path.exists():
        raise InvalidInput(f"--data {path}: no such file or folder; name the inputs that this model gets")
    found = _files(path)
    if spec.takes != "tensors":
        items = _raw(path, found, spec)
        if not items:
            raise InvalidInput(f"--data {path}: holds nothing to read; name a file, or a folder with files")
        return [raw_job(item, spec) for item in items]
    arrays = [one for one in found if one.suffix in (".npy", ".npz")]
    if not arrays:
        raise InvalidInput(f"--data {path}: holds no .npy or .npz; save the inputs with numpy.savez, rows first")
    each = -(-MOST_JOBS // len(_picked(arrays, MOST_JOBS)))
    jobs: list[Job] = []
    size = 0
    for one in _picked(arrays, MOST_JOBS):
        for job in _rows_of(one, spec, each):
            jobs.append(job)
            size += job.size
            if size > MOST_BYTES:
                return jobs
    if not jobs:
        raise InvalidInput(f"--data {path}: its arrays hold no row; save at least one")
    return jobs


def zeros(spec: ModelSpec, dims: tuple[int, ...]) -> Job:
    """A job of one row of zeros, where there is no data."""
    columns = input_columns(spec, dims)
    return _tensor_job([np.zeros(shape, dtype) for _, dtype, shape in columns], spec)


def raw_job(item: bytes, spec: ModelSpec) -> Job:
    """A job for the model's preprocess."""
    return _job(Kind.TEXT if spec.takes == "text" else Kind.BYTES, NOTHING, item)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    seen = (one for one in path.rglob("*") if not any(part.startswith(".") for part in one.relative_to(path).parts))
    return sorted(one for one in seen if one.is_file())


def _picked(items: list[Any], most: int) -> list[Any]:
    """At most `most` of them, evenly spaced."""
    return items if len(items) <= most else [items[index * len(items) // most] for index in range(most)]


def _raw(path: Path, found: list[Path], spec: ModelSpec) -> list[bytes]:
    is_lines = spec.takes == "text" and path.is_file()
    items: list[bytes] = []
    size = 0
    for one in _picked(found, MOST_JOBS):
        try:
            data = one.read_bytes()
            if spec.takes == "text":
                data.decode()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{one}: cannot be read: {error}; correct or remove it") from None
        lines = [line for line in data.splitlines() if line.strip()] if is_lines else [data]
        items += _picked(lines, MOST_JOBS)
        size += len(data)
        if size > MOST_BYTES:
            break
    return items


def _rows_of(path: Path, spec: ModelSpec, most: int) -> Iterator[Job]:
    arrays = _arrays(path, spec)
    counts = {len(array) for array in arrays}
    if len(counts) > 1:
        raise InvalidInput(f"{path}: its arrays have {sorted(counts)} rows; give all inputs the same rows")
    for row in _picked(list(range(counts.pop())), most):
        yield _tensor_job([array[row] for array in arrays], spec)


def _arrays(path: Path, spec: ModelSpec) -> list[NDArray[Any]]:
    """One array per input, in the spec's order."""
    names = [tensor.name for tensor in spec.inputs]
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
        given = dict(loaded) if path.suffix == ".npz" else {names[0]: loaded}
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror or error}; correct or remove it") from None
    except (ValueError, EOFError, zipfile.BadZipFile):
        # numpy's own words are left out: they advise allow_pickle, which runs what is in the file
        raise InvalidInput(f"{path}: is no .npy or .npz, or holds Python objects; save it with numpy.savez") from None
    if given.keys() != set(names):
        mend = f"save it with numpy.savez(FILE, {', '.join(f'{name}=...' for name in names)})"
        raise InvalidInput(f"{path}: holds {', '.join(given) or 'nothing'}, the inputs are {', '.join(names)}; {mend}")
    for tensor in spec.inputs:
        array = given[tensor.name]
        wanted = f"{tensor.dtype} (rows, {', '.join(map(str, tensor.shape))})"
        if array.ndim != len(tensor.shape) + 1 or str(array.dtype) != tensor.dtype:
            came = f"{array.dtype} {array.shape}"
            raise InvalidInput(f"{path}: input {tensor.name!r} is {came}, wanted {wanted}; reshape or convert it")
        if any(
            isinstance(want, int) and want != have for want, have in zip(tensor.shape, array.shape[1:], strict=True)
        ):
            raise InvalidInput(f"{path}: input {tensor.name!r} has shape {array.shape}, wanted {wanted}; reshape it")
    return [given[name] for name in names]


def _tensor_job(row: list[NDArray[Any]], spec: ModelSpec) -> Job:
    columns = tuple(
        Column(tensor.name, tensor.dtype, array.shape, ITEM_BYTES[tensor.dtype] * prod(array.shape))
        for tensor, array in zip(spec.inputs, row, strict=True)
    )
    signature = Signature(columns, sum(column.row_bytes for column in columns))
    return _job(Kind.TENSORS, signature, b"".join(np.ascontiguousarray(array).tobytes() for array in row))


def _job(kind: Kind, signature: Signature, data: bytes) -> Job:
    return Job(
        id="", lane=1, entry=b"", lease=b"1", kind=kind, rows=1, is_one_row=True, signature=signature, data=data, offset=0,
        result_ttl_s=0, is_stored=False, retries=0, attempt=0, deliveries=1, size=len(data), submitted_ms=0, deadline_ms=0,
    )  # fmt: skip
