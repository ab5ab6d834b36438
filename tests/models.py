"""Small artifacts for tests, each built into a folder in milliseconds. Not fixtures: plain functions, so any test may call them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.spec import TensorSpec
from examples.mlp.build import build
from workers.artifact import Artifact, write
from workers.manifest import Manifest

LINEAR_WEIGHT: NDArray[np.float32] = np.linspace(0, 0.875, 8, dtype=np.float32).reshape(
    2, 4
)  # [out, in], as torch keeps it
LINEAR_BIAS: NDArray[np.float32] = np.array([0.5, -0.5], np.float32)

X = TensorSpec(name="x", dtype="float32", shape=(4,))
Y = TensorSpec(name="y", dtype="float32", shape=(2,))

LINEAR = '''
import torch

class Linear(torch.nn.Module):
    """y = x W^T + b."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.line = torch.nn.Linear(features, 2)

    def forward(self, x):
        return self.line(x)
'''

RAISING = '''
import torch

class Raising(torch.nn.Module):
    """Doubles x; raises when any row begins with 13."""

    def forward(self, x):
        if (x[:, 0] == 13).any():
            raise ValueError("13 is not to my taste")
        return x * 2
'''

TEXT = """
import numpy as np

def preprocess(items):
    return [ValueError("empty text") if not item else {"x": np.full(4, len(item), np.float32)} for item in items]

def postprocess(outputs, rows):
    return [{"length": float(row[0])} for row in outputs["y"][:rows]]
"""


def manifest(backend: str, options: dict[str, Any], **changes: Any) -> Manifest:
    """One of x [4] -> y [2], at most 64 rows; `changes` are fields of Manifest."""
    fields: dict[str, Any] = {
        "format": 1, "name": "small", "version": "1", "backend": backend, "takes": "tensors", "inputs": (X,),
        "outputs": (Y,), "max_rows": 64, "options": options,
    }  # fmt: skip
    return Manifest(**fields | changes)


def mlp(folder: Path, **sizes: Any) -> Artifact:
    """The MLP example: x [64], finite -> logits [2], at most 256 rows, with a golden probe."""
    return build(folder, **sizes)


def torch_module(folder: Path, *, source: str = LINEAR, class_name: str = "Linear", **changes: Any) -> Artifact:
    """safetensors and a module of the artifact's own."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(source)
    save_file({"line.weight": LINEAR_WEIGHT, "line.bias": LINEAR_BIAS}, folder / "weights.safetensors")
    options = {"module": "model.py", "class": class_name, "kwargs": {"features": 4}, "weights": "weights.safetensors"}
    return write(folder, manifest("pytorch", options, **changes))


def module_source(folder: Path, source: str, class_name: str, **changes: Any) -> Artifact:
    """A module without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(source)
    return write(folder, manifest("pytorch", {"module": "model.py", "class": class_name}, **changes))


def raising(folder: Path) -> Artifact:
    """x [4] -> y [4] = 2x; its forward raises ValueError for a batch with a row that begins with 13."""
    return module_source(
        folder, RAISING, "Raising", name="raising", outputs=(TensorSpec(name="y", dtype="float32", shape=(4,)),)
    )


def _linear() -> Any:
    import torch

    line = torch.nn.Linear(4, 2)
    line.load_state_dict(
        {"weight": torch.from_numpy(LINEAR_WEIGHT.copy()), "bias": torch.from_numpy(LINEAR_BIAS.copy())}
    )
    return line.eval()


def program(folder: Path) -> Artifact:
    """The same linear layer as a torch.export program, rows 1 to 64."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    rows = torch.export.Dim("rows", min=1, max=64)
    exported = torch.export.export(_linear(), (torch.zeros(3, 4),), dynamic_shapes=({0: rows},))
    torch.export.save(exported, folder / "model.pt2")
    return write(folder, manifest("pytorch", {"program": "model.pt2"}))


def torchscript(folder: Path) -> Artifact:
    """The same linear layer as TorchScript."""
    import warnings

    import torch

    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        jit: Any = torch.jit  # untyped in torch
        script = jit.trace(_linear(), torch.zeros(3, 4))
        jit.save(script, str(folder / "model.ts"))
    return write(folder, manifest("torchscript", {"file": "model.ts"}))


def onnx_file(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any], **save: Any
) -> None:
    """Writes a graph of opset 17, IR 10."""
    import onnx
    from onnx import helper

    graph = helper.make_graph(nodes, "small", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(path), **save)


def onnx_linear(folder: Path, *, rows: str | int = "rows", **save: Any) -> Path:
    """model.onnx of the same linear layer, without a manifest; `save` goes to onnx.save."""
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    onnx_file(
        folder / "model.onnx",
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 2])],
        [numpy_helper.from_array(LINEAR_WEIGHT, "w"), numpy_helper.from_array(LINEAR_BIAS, "b")],
        **save,
    )
    return folder


def seq_mean(folder: Path) -> Artifact:
    """x [seq, 3] and mask [seq] -> mean [3]: the mean over the places where mask is 1. seq is padded to 8, 16 or 32."""
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    onnx_file(
        folder / "model.onnx",
        [
            helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
            helper.make_node("Mul", ["x", "column"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "seq_axis"], ["total"], keepdims=0),
            helper.make_node("ReduceSum", ["mask", "seq_axis"], ["count"], keepdims=1),
            helper.make_node("Max", ["count", "one"], ["divisor"]),  # a row of nothing but padding gives 0, not NaN
            helper.make_node("Div", ["total", "divisor"], ["mean"]),
        ],
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "seq", 3]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["rows", "seq"]),
        ],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["rows", 3])],
        [
            numpy_helper.from_array(np.array([2], np.int64), "last"),
            numpy_helper.from_array(np.array([1], np.int64), "seq_axis"),
            numpy_helper.from_array(np.array(1, np.float32), "one"),
        ],
    )
    return write(
        folder,
        manifest(
            "onnx",
            {"file": "model.onnx"},
            name="seq",
            inputs=(
                TensorSpec(name="x", dtype="float32", shape=("seq", 3)),
                TensorSpec(name="mask", dtype="float32", shape=("seq",)),
            ),
            outputs=(TensorSpec(name="mean", dtype="float32", shape=(3,)),),
            buckets={"seq": (8, 16, 32)},
        ),
    )


def text_length(folder: Path, *, source: str = TEXT) -> Artifact:
    """Takes text; gives {"length": characters}. An empty text fails alone, in preprocess. No torch. `source` is the pipeline."""
    from onnx import TensorProto, helper

    folder.mkdir(parents=True, exist_ok=True)
    onnx_file(
        folder / "model.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
        [],
    )
    (folder / "pipeline.py").write_text(source)
    outputs = (TensorSpec(name="y", dtype="float32", shape=(4,)),)
    changes: dict[str, Any] = {"name": "text", "takes": "text", "outputs": outputs, "pipeline": "pipeline.py"}
    return write(folder, manifest("onnx", {"file": "model.onnx"}, **changes))
