"""What runs a model: one module per backend, imported only in the engine, only when asked for.

A backend takes padded arrays and gives arrays; it knows nothing of jobs or Redis.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from workers.artifact import Artifact
    from workers.slabs import Place, Slab

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


@runtime_checkable
class OnDevice(Backend, Protocol):
    """A backend whose device has a memory of its own."""

    def attach(self, slabs: Sequence[Slab], *, has_postprocess: bool) -> None:
        """The slabs batches will lie in: pins them. Once, after the model is loaded and before the first forward."""

    def prepare(self, inputs: Arrays) -> bool:
        """Readies this very shape for replay, in the warm-up, after it was run; False where that is off or did not work.

        Raises only what the device does not survive.
        """

    def detach(self) -> None:
        """Unpins the slabs; nothing may be under way, and nothing runs after it."""


class Landing(Protocol):
    """A forward on its way. The device writes its outputs to the host by itself."""

    def is_done(self) -> bool:
        """Whether `finish` will not wait. An error counts as an end; `finish` tells it."""

    def finish(self) -> Arrays:
        """Waits for outputs; raises what the forward failed with. Valid until the slab's next launch."""

    @property
    def ms(self) -> float:
        """What forward and copy-out took on the device; known after `finish`."""


@runtime_checkable
class Overlapping(OnDevice, Protocol):
    """A backend whose copies run beside its forwards: the next batch may be staged while one computes, never launched."""

    def stage(self, index: int, places: tuple[Place, ...], size: int, inputs: Arrays | None = None) -> Any:
        """Starts copying a batch to the device, from slab `index` as it lies there or from `inputs`, and gives it a handle.

        A slab keeps its content until the launch of the handle landed.
        """

    def launch(self, staged: Any, rows: int) -> Landing:
        """Starts its forward. The outputs of the first `rows` land in the slab; with a postprocess those of all, beside it.

        When it raises, the device is done with the batch. Raises the runtime's own errors and ArtifactError.
        """


def load(artifact: Artifact, *, device: str, threads: int, memory_fraction: float = 0.0) -> Backend:
    """Loads a verified artifact. Raises ArtifactError, DeviceError or the runtime's own error.

    `memory_fraction` above 0 is the share of the device's memory that this process may take.
    """
    module = import_module(MODULES[artifact.manifest.backend])
    backend: Backend = module.load(artifact, device=device, threads=threads, memory_fraction=memory_fraction)
    return backend
