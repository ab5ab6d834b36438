"""Runs an ONNX model with ONNX Runtime, from checked bytes: no file is opened by the runtime.

Inputs go in as they are (no copy on the CPU) and outputs come back as new arrays.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any, cast

import onnxruntime

from broker.errors import ArtifactError, DeviceError
from broker.settings import unknown
from broker.spec import TensorSpec
from workers import devices
from workers.artifact import Artifact
from workers.backends import Arrays
from workers.backends.pulse import Pulse
from workers.manifest import OnnxOptions

DTYPES = {
    "tensor(bool)": "bool", "tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(int16)": "int16",
    "tensor(uint16)": "uint16", "tensor(int32)": "int32", "tensor(uint32)": "uint32", "tensor(int64)": "int64",
    "tensor(uint64)": "uint64", "tensor(float16)": "float16", "tensor(float)": "float32", "tensor(double)": "float64",
}  # fmt: skip


class OnnxBackend:
    """A session on its device. Not for threads of the caller's own."""

    def __init__(
        self,
        session: Any,
        *,
        device: str,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        constants: Arrays,
        pulse: Pulse | None = None,
    ) -> None:
        self.device = device
        self._run = session.run
        self._first = inputs[0]
        self._names = list(outputs)
        self._constants = constants
        self._pulse = pulse
        self._run_options: Any = None  # set for one run, which gives unused arena memory back when it ends

    def run(self, inputs: Arrays) -> Arrays:
        """One forward. Raises ArtifactError when an output lost the row axis; the runtime's own errors pass through."""
        options, self._run_options = self._run_options, None
        outputs = self._run(self._names, {**inputs, **self._constants} if self._constants else inputs, options)
        rows = inputs[self._first].shape[0]
        for name, array in zip(self._names, outputs, strict=True):
            if array.shape[:1] != (rows,):
                raise ArtifactError(
                    f'output "{name}" has shape {list(array.shape)} for {rows} rows; the model must keep the first axis'
                )
        return dict(zip(self._names, outputs, strict=True))

    def device_bytes(self) -> int | None:
        """By NVML, since ONNX Runtime tells nothing of its arena; None on the CPU and where NVML does not tell."""
        return None if self.device == "cpu" else devices.own_bytes(os.getpid())

    def probe(self) -> bool:
        """Whether the context ONNX Runtime works in still does."""
        return self._pulse is None or self._pulse.beats()

    def free(self) -> None:
        """Collects what cycles keep; the arena shrinks only at the end of a run, so the next one is told to."""
        gc.collect()
        kind, _, index = self.device.partition(":")
        self._run_options = onnxruntime.RunOptions()
        place = f"{'gpu' if kind == 'cuda' else kind}:{index or 0}"
        self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", place)


def load(artifact: Artifact, *, device: str, threads: int) -> OnnxBackend:
    """Loads the graph on `device`. Raises ArtifactError when graph and manifest differ, DeviceError on a silent fallback."""
    options = cast(OnnxOptions, artifact.options)
    where, providers = devices.for_onnx(device)
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
    try:
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
    return OnnxBackend(
        session,
        device=where,
        inputs=tuple(tensor.name for tensor in artifact.manifest.inputs),
        outputs=tuple(tensor.name for tensor in artifact.manifest.outputs),
        constants={name: values.array() for name, values in options.constants.items()},
        pulse=None if where == "cpu" else Pulse(devices.parse(where).index),
    )


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


# --- files an ONNX graph names --------------------------------------------------------------


def _refuse_hidden_files(artifact: Artifact, options: OnnxOptions, graph: bytes) -> None:
    for name in sorted(external_files(graph)):
        if name not in options.external:
            raise ArtifactError(
                f'{artifact.folder / options.file}: its weights lie in "{name}", which the manifest does not name; '
                f"add it to options.external, then run `penstock models seal {artifact.folder}`"
            )


# Fields that lead to tensors, by message: number -> message; from onnx.proto (IR 3 to 13). Others are skipped unread.
_LEADS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}


def external_files(graph: bytes) -> set[str]:
    """Files a serialized ModelProto keeps tensors in. A graph that is not protobuf gives what was found up to there.

    Reads the protobuf wire format itself: workers have no `onnx` package.
    """
    found: set[str] = set()
    view = memoryview(graph)
    todo = [("model", view)]
    while todo:
        message, body = todo.pop()
        leads = _LEADS.get(message, {})
        if message == "entry":
            fields = {number: bytes(value) for number, value in _fields(body)}
            if fields.get(1) == b"location":
                found.add(fields.get(2, b"").decode(errors="replace"))
            continue
        todo.extend((leads[number], value) for number, value in _fields(body) if number in leads)
    return found


def _fields(body: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, bytes) of the length-delimited fields of one message; stops where the bytes stop making sense."""
    at, end = 0, len(body)
    while at < end:
        key, at = _varint(body, at)
        kind = key & 7
        if kind == 2:
            length, at = _varint(body, at)
            yield key >> 3, body[at : at + length]
            at += length
        elif kind == 0:
            _, at = _varint(body, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            return


def _varint(body: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(body):
        byte = body[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            break
        shift += 7
    return value, at
