"""Runs a PyTorch model: a torch.export program, or a module of the artifact's own with safetensors weights.

Loads from checked bytes. Every forward is under torch.inference_mode; no gradient is ever kept.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any, cast
from zipfile import BadZipFile

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray

from broker.errors import ArtifactError
from workers import devices
from workers.artifact import Artifact
from workers.backends import Arrays
from workers.manifest import PytorchOptions
from workers.pipeline import load_module

TORCH_DTYPES = {getattr(torch, name): np.dtype(name) for name in (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
)}  # fmt: skip


class TorchBackend:
    """A callable model on its device; torchscript models run in it too."""

    def __init__(
        self, forward: Callable[..., Any], *, device: str, inputs: tuple[str, ...], outputs: dict[str, str]
    ) -> None:
        self.device = device
        self._forward = forward
        self._inputs = inputs
        self._outputs = {name: np.dtype(dtype) for name, dtype in outputs.items()}
        self._on_cpu = device == "cpu"
        self._writes_inputs = False  # found out in warm-up: such a model gets copies from then on
        self._pulse = None if self._on_cpu else torch.zeros(1, device=device)
        self.probe()  # loads its kernel now: out of memory, that could fail for want of memory

    def run(self, inputs: Arrays) -> Arrays:
        """One forward. Raises ArtifactError when outputs are not what the manifest says; the model's errors pass through."""
        tensors = [self._enter(inputs[name]) for name in self._inputs]
        versions = [tensor._version for tensor in tensors]
        with torch.inference_mode():
            result = self._forward(*tensors)
            named = self._named(result)
            rows = tensors[0].shape[0]
            outputs = {name: self._leave(name, value, rows, tensors) for name, value in named.items()}
        if self._on_cpu and versions != [tensor._version for tensor in tensors]:
            self._writes_inputs = True
        return outputs

    def device_bytes(self) -> int | None:
        """What torch's allocator holds on the device; None on the CPU."""
        return None if self._on_cpu else torch.cuda.memory_reserved(self.device)

    def probe(self) -> bool:
        """Whether a kernel still runs on the device; a sticky error fails every call from the first on."""
        if self._pulse is None:
            return True
        try:
            self._pulse.add_(1)
            torch.cuda.synchronize(self.device)
        except RuntimeError:
            return False
        return True

    def free(self) -> None:
        """Collects what cycles keep, then gives the allocator's unused blocks back to the device."""
        gc.collect()
        if not self._on_cpu:
            with torch.cuda.device(self.device):
                torch.cuda.empty_cache()

    def _enter(self, array: NDArray[Any]) -> torch.Tensor:
        if self._on_cpu:
            # torch knows no read-only tensors, so what must not be written to is copied
            return torch.from_numpy(array.copy() if self._writes_inputs or not array.flags.writeable else array)
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        # from pageable memory the call returns once the array was staged: the caller may reuse it at once
        return tensor.to(self.device, non_blocking=True)

    def _named(self, result: Any) -> Mapping[str, Any]:
        if isinstance(result, torch.Tensor):
            result = (result,)
        if isinstance(result, Mapping):
            if missing := self._outputs.keys() - result.keys():
                raise ArtifactError(f"forward gave {sorted(result)}; the manifest's outputs name {sorted(missing)} too")
            return {name: result[name] for name in self._outputs}
        if not isinstance(result, Sequence) or len(result) != len(self._outputs):
            have = f"{len(result)} values" if isinstance(result, Sequence) else type(result).__name__
            raise ArtifactError(f"forward gave {have}; the manifest names {len(self._outputs)} outputs")
        return dict(zip(self._outputs, result, strict=True))

    def _leave(self, name: str, value: Any, rows: int, inputs: list[torch.Tensor]) -> NDArray[Any]:
        if not isinstance(value, torch.Tensor) or value.shape[:1] != (rows,):
            have = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ArtifactError(f'output "{name}" is {have} for {rows} rows; the model must keep the first axis')
        if TORCH_DTYPES.get(value.dtype) != self._outputs[name]:
            raise ArtifactError(
                f'output "{name}" is {value.dtype}, the manifest says {self._outputs[name]}; cast it in forward'
            )
        value = value.cpu().contiguous()  # waits for the device
        if self._on_cpu and any(_shares(value, tensor) for tensor in inputs):
            value = value.clone()  # the inputs are the caller's memory, valid during the call only
        array: NDArray[Any] = value.numpy()
        return array


def _shares(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def load(artifact: Artifact, *, device: str, threads: int) -> TorchBackend:
    """Loads the model on `device`. Raises ArtifactError when code, weights and manifest differ; DeviceError."""
    options = cast(PytorchOptions, artifact.options)
    where = devices.for_torch(device)
    torch.set_num_threads(threads)
    forward = _program(artifact, options.program, where) if options.program else _module(artifact, options, where)
    return backend(artifact, forward, where)


def backend(artifact: Artifact, forward: Callable[..., Any], where: str) -> TorchBackend:
    """A backend around any callable that takes the manifest's inputs in order."""
    return TorchBackend(
        forward,
        device=where,
        inputs=tuple(tensor.name for tensor in artifact.manifest.inputs),
        outputs={tensor.name: tensor.dtype for tensor in artifact.manifest.outputs},
    )


def _program(artifact: Artifact, name: str, where: str) -> Callable[..., Any]:
    try:
        program = torch.export.load(BytesIO(artifact.read(name)))
    except (RuntimeError, ValueError, KeyError, BadZipFile) as error:
        raise ArtifactError(f"{artifact.folder / name}: torch {torch.__version__} cannot load it: {error}") from None
    if where != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, where)
    return program.module()


def _module(artifact: Artifact, options: PytorchOptions, where: str) -> Callable[..., Any]:
    namespace = load_module(artifact, options.module)
    kind = getattr(namespace, options.class_name, None)
    if not isinstance(kind, type) or not issubclass(kind, torch.nn.Module):
        raise ArtifactError(
            f'{artifact.folder / options.module}: defines no torch.nn.Module named "{options.class_name}"'
        )
    module: torch.nn.Module = kind(**options.kwargs)
    if options.weights:
        try:
            module.load_state_dict(safetensors.torch.load(artifact.read(options.weights)), strict=True)
        except (safetensors.SafetensorError, RuntimeError) as error:
            raise ArtifactError(
                f"{artifact.folder / options.weights}: does not fit {options.class_name}: {error}"
            ) from None
    return module.eval().requires_grad_(False).to(where)
