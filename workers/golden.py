"""The golden probe: inputs from the manifest and the outputs they must give; run after warm-up, before a slot says ready.

Pure: runs nothing itself.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from broker.spec import TensorSpec
from workers.backends import Arrays
from workers.manifest import Manifest


def probe_inputs(manifest: Manifest) -> Arrays:
    """The golden probe's inputs, [probe rows, ...]; empty without a probe."""
    probe = manifest.golden
    if probe is None:
        return {}
    sizes = {name: buckets[0] for name, buckets in manifest.buckets.items()}
    return {
        tensor.name: probe.inputs[tensor.name].array()
        if tensor.name in probe.inputs
        else made_from_seed(tensor, (probe.rows, *_sized(tensor.shape, sizes)), probe.seed)
        for tensor in manifest.inputs
    }


def probe_mismatch(manifest: Manifest, outputs: Arrays) -> str:
    """One sentence on how outputs of `probe_inputs` differ from the golden ones; empty when they agree.

    Outputs may have more rows (padding); those are not looked at.
    """
    probe = manifest.golden
    if probe is None:
        return ""
    for name, values in probe.outputs.items():
        want = values.array().astype(np.float64)
        have = outputs[name][: probe.rows].astype(np.float64)
        if have.shape != want.shape:
            return f'golden probe: "{name}" has shape {list(have.shape)}, {list(want.shape)} was recorded'
        if not np.allclose(have, want, atol=probe.atol, rtol=probe.rtol, equal_nan=True):
            worst = float(np.abs(have - want).max())  # NaN where one is NaN
            return (
                f'golden probe: "{name}" is off by {worst:.3g} (atol {probe.atol:g}, rtol {probe.rtol:g} are allowed)'
            )
    return ""


def made_from_seed(tensor: TensorSpec, shape: tuple[int, ...], seed: int) -> NDArray[np.generic]:
    """The same values on every machine and version: SHAKE-128 of seed and name, spread over [minimum, maximum].

    Without bounds floats lie in [-1, 1] and whole numbers in [0, 1].
    """
    dtype = np.dtype(tensor.dtype)
    raw = hashlib.shake_128(f"{seed}:{tensor.name}".encode()).digest(4 * math.prod(shape))
    unit = np.frombuffer(raw, "<u4").reshape(shape) / 2.0**32
    low = tensor.minimum if tensor.minimum is not None else (-1.0 if dtype.kind == "f" else 0.0)
    high = tensor.maximum if tensor.maximum is not None else max(low, 1.0)
    values = low + unit * (high - low)
    return (values if dtype.kind == "f" else np.rint(values)).astype(dtype)


def _sized(shape: tuple[int | str, ...], sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in shape)
