"""What runs a model: one module per backend, imported only in the engine, only when asked for.

A backend takes padded arrays and gives arrays; it knows nothing of jobs, slabs or Redis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from workers.artifact import Artifact

Arrays = dict[str, NDArray[np.generic]]

MODULES = {
    "onnx": "workers.backends.onnx",
    "pytorch": "workers.backends.pytorch",
    "torchscript": "workers.backends.torchscript",
}


class Backend(Protocol):
    """A loaded model on its device."""

    @property
    def device(self) -> str:
        """The device the model really runs on, e.g. `cpu` or `cuda:0`; never the one that was only asked for."""

    def run(self, inputs: Arrays) -> Arrays:
        """One forward. Arrays are C-contiguous [bucket rows, ...]; outputs have the same first axis.

        Inputs are views of shared memory: valid during the call only. Errors of the runtime pass through unchanged.
        """

    def device_bytes(self) -> int | None:
        """Device memory this process holds, or None where nothing trustworthy tells."""

    def probe(self) -> bool:
        """Whether the device still works: a tiny kernel and a synchronize, without allocating; always True on the CPU."""

    def free(self) -> None:
        """Gives back what an out-of-memory left behind; call it after the error's except block."""


def load(artifact: Artifact, *, device: str, threads: int) -> Backend:
    """Loads a verified artifact. Raises ArtifactError, DeviceError or the runtime's own error."""
    module = import_module(MODULES[artifact.manifest.backend])
    backend: Backend = module.load(artifact, device=device, threads=threads)
    return backend
