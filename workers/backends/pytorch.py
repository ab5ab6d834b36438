"""Runs a PyTorch model: a torch.export program, or a module of the artifact's own with safetensors weights.

Loads from checked bytes. Every forward is under torch.inference_mode; no gradient is ever kept. What a GPU needs beside
this stands in `torch_cuda`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any, cast
from zipfile import BadZipFile

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

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
)}  # fmt: skip


class TorchBackend:
    """A callable model on the CPU; torchscript models run in it too."""

    def __init__(
        self,
        forward: Callable[..., Any],
        *,
        device: str,
        inputs: tuple[str, ...],
        outputs: dict[str, str],
        precision: torch.dtype | None = None,
    ) -> None:
        """With `precision` the model computes in it: floating inputs and outputs are cast at its edge."""
        self.device = device
        self._forward = forward
        self._inputs = inputs
        self._outputs = {name: DTYPES[dtype] for name, dtype in outputs.items()}
        self._precision = precision
        self._writes_inputs = False  # found out in warm-up: such a model gets copies from then on

    def run(self, inputs: Arrays) -> Arrays:
        """One forward. Raises ArtifactError when outputs are not what the manifest says; the model's errors pass through."""
        tensors = [self._enter(inputs[name]) for name in self._inputs]
        versions = [tensor._version for tensor in tensors]
        with torch.inference_mode():
            outputs = {name: self._leave(value, tensors) for name, value in self._answer(tensors).items()}
        if versions != [tensor._version for tensor in tensors]:
            self._writes_inputs = True
        return outputs

    def device_bytes(self) -> int | None:
        """None: the CPU's memory is the host's."""
        return None

    def probe(self) -> bool:
        """Always True."""
        return True

    def free(self) -> None:
        """Collects what cycles keep."""
        gc.collect()

    def _enter(self, array: NDArray[Any]) -> torch.Tensor:
        # torch knows no read-only tensors, so what must not be written to is copied
        return torch.from_numpy(array.copy() if self._writes_inputs or not array.flags.writeable else array)

    def _answer(self, tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The model's outputs by name, as the manifest has them, where they were computed."""
        rows = tensors[0].shape[0]
        if self._precision is not None:
            tensors = [one.to(self._precision) if one.is_floating_point() else one for one in tensors]
        named = self._named(self._forward(*tensors))
        return {name: self._checked(name, value, rows) for name, value in named.items()}

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

    def _checked(self, name: str, value: Any, rows: int) -> torch.Tensor:
        if not isinstance(value, torch.Tensor) or value.shape[:1] != (rows,):
            have = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ArtifactError(f'output "{name}" is {have} for {rows} rows; the model must keep the first axis')
        wanted = self._outputs[name]
        if value.dtype is wanted:
            return value
        if self._precision is None or not (value.is_floating_point() and wanted.is_floating_point):
            said = str(wanted).removeprefix("torch.")
            raise ArtifactError(f'output "{name}" is {value.dtype}, the manifest says {said}; cast it in forward')
        return value.to(wanted)

    def _leave(self, value: torch.Tensor, inputs: list[torch.Tensor]) -> NDArray[Any]:
        value = value.contiguous()
        if any(_shares(value, tensor) for tensor in inputs):
            value = value.clone()  # the inputs are the caller's memory, valid during the call only
        array: NDArray[Any] = value.numpy()
        return array


def _shares(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def load(artifact: Artifact, *, device: str, threads: int, memory_fraction: float = 0.0) -> TorchBackend:
    """Loads the model on `device`. Raises ArtifactError when code, weights and manifest differ; DeviceError."""
    options = cast(PytorchOptions, artifact.options)
    where = devices.for_torch(device, memory_fraction=memory_fraction)
    torch.set_num_threads(threads)
    forward = _program(artifact, options.program, where) if options.program else _module(artifact, options, where)
    precision = getattr(torch, options.precision) if options.precision else None
    return backend(artifact, forward, where, precision=precision, is_captured=options.cuda_graphs)


def backend(
    artifact: Artifact,
    forward: Callable[..., Any],
    where: str,
    *,
    precision: torch.dtype | None = None,
    is_captured: bool = False,
) -> TorchBackend:
    """A backend around any callable that takes the manifest's inputs in order. `is_captured`: as CUDA graphs, on a GPU."""
    edges: dict[str, Any] = {
        "inputs": tuple(tensor.name for tensor in artifact.manifest.inputs),
        "outputs": {tensor.name: tensor.dtype for tensor in artifact.manifest.outputs},
        "precision": precision,
    }
    if where == "cpu":
        return TorchBackend(forward, device=where, **edges)
    from workers.backends.torch_cuda import CudaTorch

    return CudaTorch(forward, device=where, is_captured=is_captured, **edges)


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
    module = module.eval().requires_grad_(False)
    if options.precision:  # on the host: the device never holds the wider weights
        module = module.to(getattr(torch, options.precision))
    return module.to(where)
