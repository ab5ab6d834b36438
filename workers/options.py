"""What a manifest says to one backend, as structs: which files make the model, and how it is run. Opens no file."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from workers.values import Values


class OnnxOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`constants` are inputs of the graph that jobs do not bring. `external` are the files its initializers lie in."""

    file: str
    external: tuple[str, ...] = ()
    constants: dict[str, Values] = {}
    refuse_cpu_nodes: bool = False  # on cuda: refuse the model when any node runs on the CPU, shape arithmetic too
    cuda_graphs: bool = (
        False  # on cuda: replay each bucket as a graph; as for pytorch, and the whole graph must be on the GPU
    )

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file, *self.external)


class PytorchOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Either `program` (a torch.export .pt2), or `module` (Python) with `class`, its `kwargs` and safetensors `weights`.

    forward is called with the manifest's inputs in their order; it gives a tensor, a sequence in the order of the
    manifest's outputs, or a mapping by their names.

    `precision` is what a module computes in: its weights are cast once, floating inputs and outputs at its edge on the
    device, so that jobs keep the dtypes of the manifest. Integers go in as they are: a module that takes uint8 images casts
    and normalises them itself (`x.to(self.mean.dtype)`, mean and deviation as buffers), on the device. A .pt2 is exported in
    the precision it is to run in.

    `cuda_graphs` replays each bucket as a CUDA graph captured in the warm-up. Off by default, since a replay repeats what
    the capture saw: a forward that branches on values, on state of its own or on Python's random numbers would answer
    wrongly without an error. Turn it on for a model that always does the same, and give it a golden probe.
    """

    program: str = ""
    module: str = ""
    class_name: str = msgspec.field(default="", name="class")
    kwargs: dict[str, Any] = {}
    weights: str = ""
    precision: Literal["", "float32", "float16", "bfloat16"] = ""
    cuda_graphs: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(path for path in (self.program, self.module, self.weights) if path)


class TorchscriptOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file written by torch.jit.save, called like a pytorch module."""

    file: str

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)


Options = OnnxOptions | PytorchOptions | TorchscriptOptions
OPTIONS: dict[str, type[Options]] = {
    "onnx": OnnxOptions,
    "pytorch": PytorchOptions,
    "torchscript": TorchscriptOptions,
}
