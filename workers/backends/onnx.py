"""Runs an ONNX model with ONNX Runtime, from checked bytes: no file is opened by the runtime.

On the CPU inputs go in as they are (no copy) and outputs come back as new arrays. What a GPU needs stands in `onnx_cuda`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any, cast

import onnxruntime

from broker.errors import ArtifactError, DeviceError
from broker.settings import unknown
from broker.spec import TensorSpec
from workers import console, devices
from workers.artifact import Artifact
from workers.backends import Arrays
from workers.backends.onnx_files import external_files as external_files
from workers.manifest import OnnxOptions

DTYPES = {
    "tensor(bool)": "bool", "tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(int16)": "int16",
    "tensor(uint16)": "uint16", "tensor(int32)": "int32", "tensor(uint32)": "uint32", "tensor(int64)": "int64",
    "tensor(uint64)": "uint64", "tensor(float16)": "float16", "tensor(float)": "float32", "tensor(double)": "float64",
}  # fmt: skip


class OnnxBackend:
    """A session on the CPU. Not for threads of the caller's own."""

    def __init__(
        self,
        session: Any,
        *,
        device: str,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        constants: Arrays,
    ) -> None:
        self.device = device
        self._session = session
        self._first = inputs[0]
        self._names = list(outputs)
        self._constants = constants
        self._run_options: Any = None  # set for one run, which gives unused arena memory back when it ends

    def run(self, inputs: Arrays) -> Arrays:
        """One forward. Raises ArtifactError when an output lost the row axis; the runtime's own errors pass through."""
        options, self._run_options = self._run_options, None
        given = {**inputs, **self._constants} if self._constants else inputs
        return self._checked(self._session.run(self._names, given, options), inputs[self._first].shape[0])

    def _checked(self, outputs: list[Any], rows: int) -> Arrays:
        for name, array in zip(self._names, outputs, strict=True):
            if array.shape[:1] != (rows,):
                raise ArtifactError(
                    f'output "{name}" has shape {list(array.shape)} for {rows} rows; the model must keep the first axis'
                )
        return dict(zip(self._names, outputs, strict=True))

    def device_bytes(self) -> int | None:
        """None: the CPU's memory is the host's."""
        return None

    def probe(self) -> bool:
        """Always True."""
        return True

    def free(self) -> None:
        """Collects what cycles keep; the arena shrinks only at the end of a run, so the next one is told to."""
        gc.collect()
        kind, _, index = self.device.partition(":")
        self._run_options = onnxruntime.RunOptions()
        place = f"{'gpu' if kind == 'cuda' else kind}:{index or 0}"
        self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", place)


def load(artifact: Artifact, *, device: str, threads: int, memory_fraction: float = 0.0) -> OnnxBackend:
    """Loads the graph on `device`. Raises ArtifactError when graph and manifest differ, DeviceError on a silent fallback."""
    options = cast(OnnxOptions, artifact.options)
    where, providers = devices.for_onnx(device, memory_fraction=memory_fraction)
    graph = artifact.read(options.file)
    _refuse_hidden_files(artifact, options, graph)
    external = [artifact.read(name) for name in options.external]
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.load_model_format", "ONNX")
    if where != "cpu":
        settings.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        if options.refuse_cpu_nodes:
            settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if external:
        names = list(options.external)
        settings.add_external_initializers_from_files_in_memory(names, external, [len(data) for data in external])
    is_captured = options.cuda_graphs and where != "cpu"
    try:
        if is_captured:
            session, is_captured = _capturing(graph, settings, providers)
        else:
            session = onnxruntime.InferenceSession(graph, settings, providers=providers)
    except _RUNTIME_ERRORS as error:
        if "fallback to CPU EP has been explicitly disabled" in str(error):
            raise DeviceError(
                f"{artifact.folder / options.file}: nodes of the graph run on the CPU only, though device is {where}; "
                "drop refuse_cpu_nodes from the manifest's options if that is meant"
            ) from None
        raise ArtifactError(f"{artifact.folder / options.file}: ONNX Runtime cannot load it: {error}") from None
    session.disable_fallback()  # else a failing run would quietly move to the CPU
    devices.confirm_onnx(device, session.get_providers())
    for problem in _differences(artifact, session, options):
        raise ArtifactError(
            f"{artifact.folder / options.file}: {problem}; correct manifest.json or export the model again"
        )
    parts: dict[str, Any] = {
        "device": where,
        "inputs": tuple(tensor.name for tensor in artifact.manifest.inputs),
        "outputs": tuple(tensor.name for tensor in artifact.manifest.outputs),
        "constants": {name: values.array() for name, values in options.constants.items()},
    }
    if where == "cpu":
        return OnnxBackend(session, **parts)
    from workers.backends.onnx_cuda import CudaOnnx

    return CudaOnnx(session, is_captured=is_captured, **parts)


def _capturing(graph: bytes, settings: Any, providers: list[Any]) -> tuple[Any, bool]:
    """A session that captures CUDA graphs, or one that does not where this graph cannot be captured."""
    wanted = [(name, given | {"enable_cuda_graph": "1"}) for name, given in providers]
    try:
        return onnxruntime.InferenceSession(graph, settings, providers=wanted), True
    except _RUNTIME_ERRORS as error:  # control flow, or nodes that run on the CPU
        why = " ".join(str(error).split())[:500]
        console.warn("cuda graphs off", reason=why, next="the model runs eagerly")
    return onnxruntime.InferenceSession(graph, settings, providers=providers), False


_STATE = onnxruntime.capi.onnxruntime_pybind11_state
_RUNTIME_ERRORS = (
    _STATE.Fail, _STATE.InvalidGraph, _STATE.InvalidProtobuf, _STATE.InvalidArgument, _STATE.NoModel,
    _STATE.NoSuchFile, _STATE.NotImplemented, _STATE.RuntimeException,
)  # fmt: skip


def _differences(artifact: Artifact, session: Any, options: OnnxOptions) -> Iterator[str]:
    """Where the graph is not what the manifest says of it."""
    graph_inputs = {node.name: node for node in session.get_inputs()}
    graph_outputs = {node.name: node for node in session.get_outputs()}
    for kind, tensors, nodes in (
        ("input", artifact.manifest.inputs, graph_inputs),
        ("output", artifact.manifest.outputs, graph_outputs),
    ):
        for tensor in tensors:
            if tensor.name not in nodes:
                yield f"the graph has no such {kind}: {unknown(kind, tensor.name, nodes)}"
            else:
                yield from _wrong_node(kind, tensor, nodes[tensor.name], artifact.row_buckets())
    given = {tensor.name for tensor in artifact.manifest.inputs} | set(options.constants)
    for name in graph_inputs.keys() - given:
        yield f'the graph wants an input "{name}" that the manifest names neither in inputs nor in options.constants'
    for name in options.constants.keys() - graph_inputs.keys():
        yield f"options.constants: {unknown('input', name, graph_inputs)}"


def _wrong_node(kind: str, tensor: TensorSpec, node: Any, rows: tuple[int, ...]) -> Iterator[str]:
    dtype = DTYPES.get(node.type, node.type)
    if dtype != tensor.dtype:
        yield f'{kind} "{tensor.name}" is {dtype} in the graph, {tensor.dtype} in the manifest'
    if node.shape is None:
        return
    if len(node.shape) != len(tensor.shape) + 1:
        yield f'{kind} "{tensor.name}" is {node.shape} in the graph, rows of {list(tensor.shape)} in the manifest'
        return
    if isinstance(node.shape[0], int) and node.shape[0] > 0 and rows != (node.shape[0],):
        yield f'{kind} "{tensor.name}" is fixed at {node.shape[0]} rows in the graph; row_buckets must be [{node.shape[0]}]'
    for have, want in zip(node.shape[1:], tensor.shape, strict=True):
        if isinstance(have, int) and have > 0 and have != want:
            yield f'{kind} "{tensor.name}" is {node.shape} in the graph, rows of {list(tensor.shape)} in the manifest'


def _refuse_hidden_files(artifact: Artifact, options: OnnxOptions, graph: bytes) -> None:
    for name in sorted(external_files(graph)):
        if name not in options.external:
            raise ArtifactError(
                f'{artifact.folder / options.file}: its weights lie in "{name}", which the manifest does not name; '
                f"add it to options.external, then run `penstock models seal {artifact.folder}`"
            )
