"""Builds a small MLP as a model artifact: ONNX, seeded random weights. Needs `onnx`, not torch.

python examples/mlp/build.py --out var/models/mlp
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from broker.spec import TensorSpec
from workers.artifact import Artifact, write
from workers.golden import made_from_seed
from workers.manifest import Manifest, Probe, Values

MAX_ROWS = 256
PROBE_ROWS = 4
CLASSES = 2


def graph(*, features: int, hidden: int, seed: int = 0) -> bytes:
    """features -> hidden -> hidden -> 2 with ReLU between; x float32 [rows, features] -> logits float32 [rows, 2]."""
    random = np.random.default_rng(seed)
    sizes = (features, hidden, hidden, CLASSES)
    nodes, weights, last = [], [], "x"
    for layer, (wide, high) in enumerate(pairwise(sizes)):
        weight = random.normal(0, (2 / wide) ** 0.5, (wide, high)).astype(np.float32)
        bias = random.normal(0, 0.1, high).astype(np.float32)
        weights += [numpy_helper.from_array(weight, f"w{layer}"), numpy_helper.from_array(bias, f"b{layer}")]
        out = "logits" if layer == len(sizes) - 2 else f"h{layer}"
        nodes.append(helper.make_node("Gemm", [last, f"w{layer}", f"b{layer}"], [out]))
        if out != "logits":
            nodes.append(helper.make_node("Relu", [out], [f"r{layer}"]))
        last = f"r{layer}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", features])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", CLASSES])
    model = helper.make_model(
        helper.make_graph(nodes, "mlp", [x], [logits], weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def build(
    out: Path | str, *, features: int = 64, hidden: int = 128, name: str = "mlp", version: str = "1", seed: int = 0
) -> Artifact:
    """Writes the artifact into `out` and gives it, checked."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    model = graph(features=features, hidden=hidden, seed=seed)
    (folder / "model.onnx").write_bytes(model)
    x = TensorSpec(name="x", dtype="float32", shape=(features,), finite=True)
    probe = made_from_seed(x, (PROBE_ROWS, features), seed)
    import onnxruntime  # after workers, which switches its telemetry off

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"x": probe})
    manifest = Manifest(
        format=1,
        name=name,
        version=version,
        backend="onnx",
        takes="tensors",
        inputs=(x,),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(CLASSES,)),),
        max_rows=MAX_ROWS,
        options={"file": "model.onnx"},
        golden=Probe(rows=PROBE_ROWS, seed=seed, outputs={"logits": Values.of(logits)}),
    )
    return write(folder, manifest)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build a small MLP as a model artifact.")
    parser.add_argument("--out", default="var/models/mlp")
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--name", default="mlp")
    parser.add_argument("--version", default="1")
    given = parser.parse_args()
    made = build(given.out, features=given.features, hidden=given.hidden, name=given.name, version=given.version)
    print(f"{made.manifest.name} {made.manifest.version} lies in {made.folder}")


if __name__ == "__main__":
    main()
