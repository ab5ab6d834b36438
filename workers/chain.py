"""How many whole batches of one job may go to the engine on one message. Pure.

A job of thousands of rows and a forward of a tenth of a millisecond: to send and settle each batch by itself costs more than it
runs. So a few go together, and the engine runs one forward after the other; none is larger than the model's own limit. A higher
lane waits for such a chain as for one batch, which bounds its length.
"""

from __future__ import annotations

from broker.spec import ModelSpec
from workers.columns import slab_bytes

MOST = 8
ROOM_BYTES = 1 << 20  # of slab
LONGEST_MS = 1.0


def most_forwards(spec: ModelSpec, *, device: str, max_rows: int) -> int:
    """1 where nothing is gained: a device has a copy stream and graphs of its own for batches, and values of a pipeline are per row."""
    is_varying = any(isinstance(dim, str) for tensor in (*spec.inputs, *spec.outputs) for dim in tensor.shape)
    if device != "cpu" or spec.takes != "tensors" or spec.has_postprocess or is_varying:
        return 1
    return max(1, min(MOST, ROOM_BYTES // max(1, sum(slab_bytes(spec, max_rows, raw_bytes=0)))))


def forwards(most: int, rows: int, *, max_rows: int, forward_ms: float, limit_ms: float = LONGEST_MS) -> int:
    """How many to chain of a job that has `rows` left; `forward_ms` 0: not known, so one."""
    if most == 1 or rows < 2 * max_rows or not forward_ms:
        return 1
    return max(1, min(most, rows // max_rows, int(limit_ms / forward_ms)))
