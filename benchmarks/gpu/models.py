"""The two models measured: a ResNet-50-class network and a MiniLM-class encoder, with seeded random weights. No download.

Random weights cost what trained ones cost. Each comes as an artifact for the pool and as a plain module for the bare loop.
"""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from broker.spec import TensorSpec
from workers.artifact import Artifact, write
from workers.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]
Rows = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Net:
    """One network at one size. `source` is the module's file."""

    name: str
    source: Path
    class_name: str
    kwargs: dict[str, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def module(self, seed: int = 0) -> torch.nn.Module:
        """With its random weights, in float32 on the CPU."""
        torch.manual_seed(seed)
        module: torch.nn.Module = runpy.run_path(str(self.source))[self.class_name](**self.kwargs)
        return module.eval().requires_grad_(False)

    def artifact(self, folder: Path, *, precision: str, cuda_graphs: bool, max_rows: int) -> Artifact:
        """The same as an artifact in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.source, folder / "model.py")
        safetensors.torch.save_file(dict(self.module().state_dict()), folder / "weights.safetensors")
        options = {
            "module": "model.py", "class": self.class_name, "kwargs": self.kwargs, "weights": "weights.safetensors",
            "precision": precision, "cuda_graphs": cuda_graphs,
        }  # fmt: skip
        manifest = Manifest(
            format=1, name=self.name, version="1", backend="pytorch", takes="tensors", inputs=self.inputs,
            outputs=self.outputs, max_rows=max_rows, options=options,
        )  # fmt: skip
        return write(folder, manifest)

    def rows(self, count: int, seed: int = 1) -> Rows:
        """Random inputs that the model takes; an encoder's lengths are all full."""
        random = np.random.default_rng(seed)
        made: Rows = {}
        for tensor in self.inputs:
            shape = (count, *(int(size) for size in tensor.shape))
            top = 2 if tensor.name == "attention_mask" else 256
            made[tensor.name] = random.integers(1, top, shape, dtype=tensor.dtype)
        return made

    def jobs(self, count: int) -> Sequence[Any]:
        """The same as a user hands them over: one input is an array, several are a mapping a job."""
        made = self.rows(count)
        if len(made) == 1:
            return next(iter(made.values()))
        return [{name: array[at] for name, array in made.items()} for at in range(count)]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row through the slab, in and out."""
        tensors = (*self.inputs, *self.outputs)
        return sum(int(np.prod([int(size) for size in one.shape])) * np.dtype(one.dtype).itemsize for one in tensors)


def nets(*, is_tiny: bool) -> list[Net]:
    """Both, at the size that is measured or (`is_tiny`) at one that only shows that the code runs."""
    side, tokens = (32, 16) if is_tiny else (224, 64)
    resnet: dict[str, Any] = {"layers": [1, 1], "width": 8, "classes": 10} if is_tiny else {}
    encoder: dict[str, Any] = {"layers": 1, "hidden": 32, "heads": 2, "inner": 64} if is_tiny else {}
    return [
        Net(
            "resnet", Path(__file__).with_name("resnet.py"), "ResNet", resnet,
            (TensorSpec(name="images", dtype="uint8", shape=(3, side, side)),),
            (TensorSpec(name="logits", dtype="float32", shape=(resnet.get("classes", 1000),)),),
        ),
        Net(
            "minilm", ROOT / "examples" / "minilm" / "encoder.py", "Encoder", encoder,
            tuple(TensorSpec(name=name, dtype="int64", shape=(tokens,)) for name in ("input_ids", "attention_mask")),
            (TensorSpec(name="embedding", dtype="float32", shape=(encoder.get("hidden", 384),)),),
        ),
    ]  # fmt: skip
