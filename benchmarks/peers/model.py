"""The model as every peer runs it: ONNX Runtime on the CPU, one thread, no spinning, like the bare loop and the engine.

A job is one row of float32 as raw bytes, its answer the raw logits: no peer pays for a text format.
"""

from __future__ import annotations

import numpy as np
import onnxruntime

FEATURES = 64
WARM_ROWS = (1, 64, 256)


class Model:
    """Rows in, answers out; every batch size Penstock warms up is warm here as well."""

    def __init__(self, path: str) -> None:
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._run = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run
        for rows in WARM_ROWS:
            self([bytes(4 * FEATURES)] * rows)

    def __call__(self, rows: list[bytes]) -> list[bytes]:
        """One forward over all rows."""
        x = np.frombuffer(b"".join(rows), np.float32).reshape(len(rows), FEATURES)
        (logits,) = self._run(["logits"], {"x": x})
        raw, width = logits.tobytes(), logits.shape[1] * 4
        return [raw[at : at + width] for at in range(0, len(raw), width)]
