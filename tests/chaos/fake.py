"""The model of the chaos suite: torch-free, does what each row's code says, and writes down every row it ran.

    x int64 [2] = (serial, code)  ->  y int64 [1] = 2 * serial + 1

The engine around it is the real one, a spawned process; only its backend is replaced. A waiter that gets another row's answer
sees it, since every serial is given out once.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from broker.spec import TensorSpec
from workers.backends import Arrays

MODEL = "chaos"
MAX_ROWS = 64
ENV_EXECUTIONS = "CHAOS_EXECUTIONS"  # file that gets the serial of every row run, 8 bytes each
ENV_FORWARD_MS = "CHAOS_FORWARD_MS"
OK, RAISE, ABORT, FLAKY = 0, 1, 2, 3
SLEEP = 1000  # SLEEP + n: the forward takes n ms longer
FLAKY_SHARE = 0.3


def answer(serial: int) -> int:
    """What the model makes of a serial."""
    return 2 * serial + 1


def build(folder: Path) -> Path:
    """Writes the artifact: a manifest and a file that no loader will read."""
    from workers.artifact import write
    from workers.manifest import Manifest

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(b"not a graph: the chaos suite's engine has a backend of its own")
    write(
        folder,
        Manifest(
            format=1, name=MODEL, version="1", backend="onnx", takes="tensors", max_rows=MAX_ROWS,
            inputs=(TensorSpec(name="x", dtype="int64", shape=(2,)),),
            outputs=(TensorSpec(name="y", dtype="int64", shape=(1,)),),
            options={"file": "model.onnx"},
        ),
    )  # fmt: skip
    return folder


class Obeys:
    """The backend. Warm-up rows are zeros, and serial 0 is given to nobody."""

    device = "cpu"

    def __init__(self) -> None:
        self._forward_s = float(os.environ.get(ENV_FORWARD_MS, "2")) / 1e3
        path = os.environ.get(ENV_EXECUTIONS)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if path else -1

    def run(self, inputs: Arrays) -> Arrays:
        serials, codes = inputs["x"][:, 0], inputs["x"][:, 1]
        if serials.any():
            time.sleep(self._forward_s + max(0, int(codes.max()) - SLEEP) / 1e3)
            self._obey(codes)
            if self._file >= 0:
                os.write(self._file, serials[serials > 0].tobytes())
        return {"y": (2 * serials + 1).reshape(-1, 1)}

    def _obey(self, codes: np.ndarray[Any, Any]) -> None:
        if (codes == ABORT).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (codes == RAISE).any():
            raise ValueError("this row was told to raise")
        flaky = int((codes == FLAKY).sum())
        if flaky and random.random() < 1 - (1 - FLAKY_SHARE) ** flaky:
            raise ConnectionError("this row was told to be flaky")

    def device_bytes(self) -> int | None:
        return None

    def probe(self) -> bool:
        return True

    def free(self) -> None:
        pass


def enter(*args: Any) -> None:
    """The spawned process: the real engine with this backend."""
    from workers import engine

    engine.load = lambda artifact, **_: Obeys()  # type: ignore[assignment]
    engine.main(*args)


def executions(path: Path) -> np.ndarray[Any, Any]:
    """The serials of all rows run, in order."""
    return np.fromfile(path, dtype=np.int64) if path.exists() else np.zeros(0, np.int64)
