"""Which shape bucket a job falls into, by its signature and the model's spec; or why it fits none. Pure."""

from __future__ import annotations

from bisect import bisect_left

import msgspec

from broker.messages import Job, Signature
from broker.spec import ModelSpec
from broker.timetable import Dims


class Misfit(msgspec.Struct, frozen=True):
    """A job that does not fit the model's spec, and why; its producer did not validate it."""

    job: Job
    text: str


class Shapes:
    """Which shape bucket a job falls into, by its signature; remembers the last one, which nearly always repeats."""

    def __init__(self, spec: ModelSpec) -> None:
        self.takes_raw = spec.takes != "tensors"
        self.varying = sorted({dim for tensor in spec.inputs for dim in tensor.shape if isinstance(dim, str)})
        self._spec = spec
        self._last: Signature | None = None
        self._last_dims: Dims | str = ()

    def dims(self, job: Job) -> Dims | str:
        """Padded sizes of the varying dimensions, or the text of a misfit."""
        if self.takes_raw:
            if not job.kind:
                return "the model takes raw input, the job brings tensors"
            return () if job.rows == 1 else f"raw input is one row a job, this one declares {job.rows}"
        if job.kind:
            return "the model takes tensors, the job brings raw input"
        if job.signature is not self._last:
            self._last_dims = self._fit(job.signature)
            self._last = job.signature
        return self._last_dims

    def _fit(self, signature: Signature) -> Dims | str:
        inputs = self._spec.inputs
        if len(signature.columns) != len(inputs):
            return f"the model takes {len(inputs)} inputs, the job brings {len(signature.columns)}"
        sizes: dict[str, int] = {}
        for tensor, column in zip(inputs, signature.columns, strict=True):
            is_fit = (
                column.name == tensor.name and column.dtype == tensor.dtype and len(column.shape) == len(tensor.shape)
            )
            for dim, size in zip(tensor.shape, column.shape, strict=False):
                is_fit = is_fit and (sizes.setdefault(dim, size) == size if isinstance(dim, str) else dim == size)
            if not is_fit:
                came = f"{column.name} {column.dtype}{list(column.shape)}"
                return (
                    f"input {tensor.name!r} must be {tensor.dtype}{list(tensor.shape)} per row, the job brings {came}"
                )
        dims = []
        for name in self.varying:
            buckets = self._spec.buckets[name]
            at = bisect_left(buckets, sizes[name])
            if at == len(buckets):
                return f"dimension {name!r} is {sizes[name]}, the largest bucket is {buckets[-1]}"
            dims.append(buckets[at])
        return tuple(dims)
