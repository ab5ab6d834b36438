"""ONNX Runtime on a GPU: I/O binding to device buffers that stay, pinned slabs, CUDA graphs where wanted.

Each shape has its own buffers: the arena is not asked for inputs in every run, and a graph finds what it captured. Copies are
ONNX Runtime's own and wait for the device, so nothing overlaps here; from and to pinned slabs they take half the time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import onnxruntime

from broker.errors import DeviceError
from workers import console, devices
from workers.backends import Arrays
from workers.backends.onnx import OnnxBackend
from workers.backends.pinned import PinnedSlab, pin
from workers.backends.primary import Primary
from workers.backends.pulse import Pulse
from workers.slabs import Slab

Shape = tuple[tuple[str, tuple[int, ...]], ...]
NO_GRAPH = -1  # gpu_graph_id of a run that is neither captured nor replayed


class Bound:
    """One shape: its buffers on the device, bound, and the run options that name its graph."""

    def __init__(self, binding: Any, inputs: dict[str, Any], options: Any) -> None:
        self.binding = binding
        self.inputs = inputs
        self.options = options


class CudaOnnx(OnnxBackend):
    """A session on a GPU."""

    def __init__(self, session: Any, *, device: str, is_captured: bool, **parts: Any) -> None:
        super().__init__(session, device=device, **parts)
        self._index = devices.parse(device).index
        self._place = "cuda"  # where buffers lie, as ONNX Runtime names it
        self._pulse = Pulse(self._index)
        self._pinned: list[PinnedSlab] = []
        self._is_captured = is_captured  # by the session; each run says which graph
        self._may_capture = is_captured
        self._bound: dict[Shape, Bound] = {}
        self._graphs: set[Shape] = set()

    def run(self, inputs: Arrays) -> Arrays:
        """One forward. Raises ArtifactError when an output lost the row axis; the runtime's own errors pass through."""
        shape = _shape(inputs)
        bound = self._bound.get(shape)
        if bound is None:
            bound = self._bound[shape] = self._bind(inputs, NO_GRAPH)
        for name, value in bound.inputs.items():
            value.update_inplace(inputs[name])
        shrinking, self._run_options = self._run_options, None
        self._session.run_with_iobinding(bound.binding, shrinking or bound.options)
        outputs = [value.numpy() for value in bound.binding.get_outputs()]
        return self._checked(outputs, inputs[self._first].shape[0])

    def device_bytes(self) -> int | None:
        """By NVML, since ONNX Runtime tells nothing of its arena; None where NVML does not tell."""
        return devices.own_bytes(os.getpid())

    def probe(self) -> bool:
        """Whether the context ONNX Runtime works in still does."""
        return self._pulse.beats()

    def free(self) -> None:
        """Lets go of the buffers of all shapes; the arena shrinks only at the end of a run, so the next one is told to."""
        if self._graphs:
            self._give_up_graphs("out of memory")
        self._bound.clear()
        super().free()
        self._run_options = onnxruntime.RunOptions()
        self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", f"gpu:{self._index}")
        if self._is_captured:  # asked of the session once and for all; each run must say no
            self._run_options.add_run_config_entry("gpu_graph_id", str(NO_GRAPH))

    def attach(self, slabs: Sequence[Slab], *, has_postprocess: bool) -> None:
        self._pinned = pin(slabs, Primary(self._index))

    def detach(self) -> None:
        for one in self._pinned:
            one.release()

    def prepare(self, inputs: Arrays) -> bool:
        if not self._may_capture:
            return False
        shape = _shape(inputs)
        eager = self._bound.pop(shape, None)
        bound = self._bind(inputs, len(self._graphs) + 1)
        # A graph writes where it was captured to write, so outputs stay where the eager run has put them.
        for name, value in zip(self._names, eager.binding.get_outputs() if eager is not None else (), strict=False):
            bound.binding.bind_ortvalue_output(name, value)
        self._bound[shape] = bound
        try:
            self.run(inputs)  # ONNX Runtime captures by itself, in the first runs of a graph's id
        except Exception as error:  # noqa: BLE001 - whatever a graph may not hold; the device is asked whether it lives
            self._give_up_graphs(f"{type(error).__name__}: {error}")
            self._bound.clear()
            if not self.probe():
                raise DeviceError(
                    f"{self.device} broke while a CUDA graph was captured: {error}; set its option cuda_graphs to false"
                ) from None
            return False
        self._graphs.add(shape)
        return True

    def _bind(self, inputs: Arrays, graph: int) -> Bound:
        binding = self._session.io_binding()
        values = {name: self._on_device(inputs[name]) for name in inputs}
        fixed = {name: self._on_device(array) for name, array in self._constants.items()}
        for name, value in (values | fixed).items():
            binding.bind_ortvalue_input(name, value)
        for name in self._names:
            binding.bind_output(name, self._place, self._index)
        options = onnxruntime.RunOptions()
        if self._is_captured:
            options.add_run_config_entry("gpu_graph_id", str(graph))
        return Bound(binding, values, options)

    def _on_device(self, array: Any) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array, self._place, self._index)

    def _give_up_graphs(self, why: str) -> None:
        console.warn("cuda graphs off", reason=" ".join(why.split())[:500], next="the rest runs eagerly")
        self._may_capture = False
        for shape in self._graphs:
            self._bound.pop(shape, None)
        self._graphs.clear()


def _shape(inputs: Arrays) -> Shape:
    return tuple((name, array.shape) for name, array in inputs.items())
