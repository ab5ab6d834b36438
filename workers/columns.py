"""A model's tensors as they lie in a slab: name, dtype and shape per row, and the bytes the largest batch takes. Pure.

Slot and engine both reckon with it; where each column lies is `slabs`.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.spec import ModelSpec
from workers.slabs import layout

Columns = tuple[tuple[str, str, tuple[int, ...]], ...]
RAW_FLOOR_BYTES = 4 << 20  # what a batch may bring in bytes, where one job may bring less


def input_columns(spec: ModelSpec, dims: Sequence[int]) -> Columns:
    """(name, dtype, per-row shape) of the inputs, padded to `dims` (sizes of the varying dimensions, by name order)."""
    varying = sorted({dim for tensor in spec.inputs for dim in tensor.shape if isinstance(dim, str)})
    sizes = dict(zip(varying, dims, strict=True))
    return tuple(
        (tensor.name, tensor.dtype, tuple(sizes[dim] if isinstance(dim, str) else dim for dim in tensor.shape))
        for tensor in spec.inputs
    )


def slab_bytes(spec: ModelSpec, max_rows: int, *, raw_bytes: int) -> tuple[int, int]:
    """Bytes of the input and output regions that hold the largest batch. Varying dimensions count at their largest."""
    largest = {name: buckets[-1] for name, buckets in spec.buckets.items()}
    dims = [largest[name] for name in sorted({d for t in spec.inputs for d in t.shape if isinstance(d, str)})]
    _, input_bytes = layout(input_columns(spec, dims), max_rows)
    if spec.takes != "tensors":
        input_bytes = raw_bytes
    outputs = [
        (tensor.name, tensor.dtype, tuple(largest[dim] if isinstance(dim, str) else dim for dim in tensor.shape))
        for tensor in spec.outputs
    ]
    _, output_bytes = layout(outputs, max_rows)
    if spec.has_postprocess:
        output_bytes = max(output_bytes, max_rows * 4096)
    return input_bytes, output_bytes
