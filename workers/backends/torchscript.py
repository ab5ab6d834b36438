"""Runs TorchScript files that exist already. torch.jit is deprecated: nothing here writes one, export anew where you can."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import Any, cast

import torch

from broker.errors import ArtifactError
from workers import devices
from workers.artifact import Artifact
from workers.backends.pytorch import TorchBackend, backend
from workers.manifest import TorchscriptOptions


def load(artifact: Artifact, *, device: str, threads: int, memory_fraction: float = 0.0) -> TorchBackend:
    """Loads the script on `device`. Raises ArtifactError when torch cannot read it; DeviceError."""
    options = cast(TorchscriptOptions, artifact.options)
    where = devices.for_torch(device, memory_fraction=memory_fraction)
    torch.set_num_threads(threads)
    data = BytesIO(artifact.read(options.file))
    load_script: Any = torch.jit.load  # untyped in torch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            script = load_script(data, map_location=where)
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(
                f"{artifact.folder / options.file}: torch {torch.__version__} cannot load it: {error}"
            ) from None
    return backend(artifact, script.eval(), where)
