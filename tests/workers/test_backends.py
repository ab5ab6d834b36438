"""Every backend gives what numpy gives, on the device that was asked for, or refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.errors import ArtifactError, DeviceError
from broker.spec import TensorSpec
from tests import models
from workers.artifact import Artifact, open_artifact, probe_inputs, probe_mismatch, write
from workers.backends import load
from workers.devices import _driver_devices

pytest.importorskip("torch", reason="needs the workers extra")

cpu_only = pytest.mark.skipif(
    _driver_devices() is not None, reason="a CUDA driver is here; this is about machines without"
)


def onnx_linear(folder: Path) -> Artifact:
    return write(models.onnx_linear(folder), models.manifest("onnx", {"file": "model.onnx"}))


LINEAR: dict[str, Callable[[Path], Artifact]] = {
    "onnx": onnx_linear,
    "module": models.torch_module,
    "program": models.program,
    "torchscript": models.torchscript,
}


@pytest.fixture(scope="module", params=list(LINEAR))
def linear(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return LINEAR[request.param](tmp_path_factory.mktemp("linear") / request.param)


def on_cpu(artifact: Artifact) -> Any:  # numpy's assertions take no arrays of unknown dtype
    return load(artifact, device="cpu", threads=1)


def rows(count: int, width: int = 4) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


def test_a_linear_layer_gives_what_numpy_gives_at_every_bucket(linear: Artifact) -> None:
    backend = on_cpu(linear)
    assert backend.device == "cpu"
    assert backend.device_bytes() is None
    for count in linear.row_buckets():
        x = rows(count)
        (name, y), *others = backend.run({"x": x}).items()
        assert name == "y"
        assert not others
        assert y.dtype == np.float32
        assert y.flags.c_contiguous
        np.testing.assert_allclose(y, x @ models.LINEAR_WEIGHT.T + models.LINEAR_BIAS, rtol=1e-5, atol=1e-6)


def test_outputs_do_not_live_in_the_inputs_memory(linear: Artifact) -> None:
    backend = on_cpu(linear)
    x = rows(4)
    y = backend.run({"x": x})["y"]
    kept = y.copy()
    x[:] = 0
    backend.run({"x": x})
    np.testing.assert_array_equal(y, kept)


def test_views_of_memory_that_must_not_be_written_are_taken(linear: Artifact) -> None:
    x = rows(4)
    x.flags.writeable = False
    assert on_cpu(linear).run({"x": x})["y"].shape == (4, 2)


@cpu_only
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_cuda_where_there_is_none_is_refused_not_run_on_the_cpu(linear: Artifact, device: str) -> None:
    with pytest.raises(DeviceError, match='set device = "cpu" in'):
        load(linear, device=device, threads=1)


def test_onnx_runtime_falling_back_silently_is_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # given a driver that counts a GPU which ONNX Runtime then cannot use (no CUDA libraries): it gives a CPU session
    if _driver_devices() is not None:
        pytest.skip("a CUDA driver is here; this is about machines without")
    monkeypatch.setattr("workers.devices._driver_devices", lambda: 1)
    artifact = onnx_linear(tmp_path / "onnx")
    # then that session is refused
    with pytest.raises(DeviceError, match="ONNX Runtime fell back to CPUExecutionProvider"):
        load(artifact, device="cuda:0", threads=1)
    capfd.readouterr()  # the runtime's own log of it


def test_the_mlp_example_answers_its_golden_probe(tmp_path: Path) -> None:
    artifact = models.mlp(tmp_path / "mlp", hidden=16)
    outputs = on_cpu(artifact).run(probe_inputs(artifact.manifest))
    assert outputs["logits"].shape == (4, 2)
    assert probe_mismatch(artifact.manifest, outputs) == ""


def test_padding_of_a_varying_dimension_changes_no_answer(tmp_path: Path) -> None:
    artifact = models.seq_mean(tmp_path / "seq")
    backend = on_cpu(artifact)
    x = np.random.default_rng(0).normal(size=(3, 5, 3)).astype(np.float32)
    for size in artifact.manifest.buckets["seq"]:
        padded, mask = np.zeros((4, size, 3), np.float32), np.zeros((4, size), np.float32)
        padded[:3, :5], mask[:3, :5] = x, 1
        mean = backend.run({"x": padded, "mask": mask})["mean"]
        np.testing.assert_allclose(mean[:3], x.mean(axis=1), rtol=1e-5, atol=1e-6)
        assert mean[3].tolist() == [0, 0, 0]


# --- onnx -----------------------------------------------------------------------------------


def test_weights_in_a_file_of_their_own_are_read_from_checked_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save: dict[str, Any] = {"save_as_external_data": True, "location": "model.data", "size_threshold": 0}
    folder = models.onnx_linear(tmp_path / "onnx", **save)
    artifact = write(folder, models.manifest("onnx", {"file": "model.onnx", "external": ["model.data"]}))
    y = on_cpu(artifact).run({"x": rows(4)})["y"]
    np.testing.assert_allclose(y, rows(4) @ models.LINEAR_WEIGHT.T + models.LINEAR_BIAS, rtol=1e-5, atol=1e-6)
    # and one the manifest does not name is refused even where the runtime would find it
    monkeypatch.chdir(folder)
    hidden = write(folder, models.manifest("onnx", {"file": "model.onnx"}))
    with pytest.raises(ArtifactError, match=r'weights lie in "model\.data", which the manifest does not name'):
        on_cpu(hidden)


def test_external_weights_are_found_in_nested_graphs(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    from workers.backends.onnx import external_files

    def tensor(location: str) -> Any:
        made = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        made.external_data.add(key="location", value=location)
        made.external_data.add(key="offset", value="0")
        return made

    inner = helper.make_graph([], "inner", [], [], [tensor("deep.bin")])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    constant = helper.make_node("Constant", [], ["k"], value=tensor("constant.bin"))
    graph = helper.make_graph([node, constant], "g", [], [], [tensor("../top.bin")])
    raw = helper.make_model(graph).SerializeToString()
    assert external_files(raw) == {"deep.bin", "constant.bin", "../top.bin"}
    for cut in range(0, len(raw), 3):
        external_files(raw[:cut])  # garbage ends, it does not raise


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"inputs": (TensorSpec(name="X", dtype="float32", shape=(4,)),)}, 'unknown input "X"'),
        ({"outputs": (TensorSpec(name="z", dtype="float32", shape=(2,)),)}, 'unknown output "z"'),
        (
            {"inputs": (TensorSpec(name="x", dtype="float64", shape=(4,)),)},
            "float32 in the graph, float64 in the manifest",
        ),
        ({"inputs": (TensorSpec(name="x", dtype="float32", shape=(5,)),)}, r"rows of \[5\] in the manifest"),
        ({"inputs": (TensorSpec(name="x", dtype="float32", shape=(4, 1)),)}, r"rows of \[4, 1\] in the manifest"),
        ({"inputs": (models.X, TensorSpec(name="w2", dtype="float32"))}, 'unknown input "w2"'),
    ],
)
def test_a_graph_that_is_not_what_its_manifest_says_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    artifact = write(models.onnx_linear(tmp_path / "onnx"), models.manifest("onnx", {"file": "model.onnx"}, **changes))
    with pytest.raises(ArtifactError, match=says):
        on_cpu(artifact)


def test_a_graph_fixed_at_one_row_needs_a_manifest_that_says_so(tmp_path: Path) -> None:
    folder = models.onnx_linear(tmp_path / "onnx", rows=1)
    with pytest.raises(ArtifactError, match=r"fixed at 1 rows in the graph; row_buckets must be \[1\]"):
        on_cpu(write(folder, models.manifest("onnx", {"file": "model.onnx"})))
    backend = on_cpu(write(folder, models.manifest("onnx", {"file": "model.onnx"}, max_rows=1)))
    assert backend.run({"x": rows(1)})["y"].shape == (1, 2)


def test_constants_are_fed_by_the_engine_and_a_forgotten_input_is_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    models.onnx_file(
        tmp_path / "model.onnx",
        [helper.make_node("Mul", ["x", "scale"], ["y"])],
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
        [],
    )
    outputs = (TensorSpec(name="y", dtype="float32", shape=(4,)),)
    scale = {"dtype": "float32", "shape": [], "data": "AABAQA=="}  # 3.0
    options: dict[str, Any] = {"file": "model.onnx", "constants": {"scale": scale}}
    backend = on_cpu(write(tmp_path, models.manifest("onnx", options, outputs=outputs)))
    np.testing.assert_allclose(backend.run({"x": rows(2)})["y"], rows(2) * 3)
    with pytest.raises(ArtifactError, match='wants an input "scale"'):
        on_cpu(write(tmp_path, models.manifest("onnx", {"file": "model.onnx"}, outputs=outputs)))


def test_a_model_that_loses_rows_is_told_from_one_that_keeps_them(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    models.onnx_file(
        tmp_path / "model.onnx",
        [helper.make_node("Compress", ["x", "first"], ["y"], axis=0)],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["any", 4])],
        [numpy_helper.from_array(np.array([True]), "first")],
    )
    outputs = (TensorSpec(name="y", dtype="float32", shape=(4,)),)
    backend = on_cpu(write(tmp_path, models.manifest("onnx", {"file": "model.onnx"}, outputs=outputs)))
    with pytest.raises(ArtifactError, match=r'output "y" has shape \[1, 4\] for 3 rows'):
        backend.run({"x": rows(3)})


@pytest.mark.parametrize("content", [b"", b"garbage", b"ORTM" * 64])
def test_a_file_that_is_no_onnx_graph_is_refused(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    artifact = write(tmp_path, models.manifest("onnx", {"file": "model.onnx"}))
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot load it"):
        on_cpu(artifact)
    capfd.readouterr()


# --- pytorch --------------------------------------------------------------------------------


def test_the_models_own_error_passes_through_unchanged(tmp_path: Path) -> None:
    backend = on_cpu(models.raising(tmp_path / "raising"))
    x = rows(4)
    np.testing.assert_allclose(backend.run({"x": x})["y"], x * 2)
    x[2, 0] = 13
    with pytest.raises(ValueError, match="13 is not to my taste"):
        backend.run({"x": x})


def forward(body: str) -> str:
    return f"import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        {body}\n"


TWO = (TensorSpec(name="a", dtype="float32", shape=(4,)), TensorSpec(name="b", dtype="float32", shape=(4,)))


@pytest.mark.parametrize(
    "body", ["return x + 1, x - 1", "return [x + 1, x - 1]", "return {'b': x - 1, 'c': x, 'a': x + 1}"]
)
def test_tuples_lists_and_mappings_become_the_manifests_outputs(tmp_path: Path, body: str) -> None:
    backend = on_cpu(models.module_source(tmp_path / "net", forward(body), "Net", outputs=TWO))
    x = rows(3)
    outputs = backend.run({"x": x})
    assert list(outputs) == ["a", "b"]
    np.testing.assert_allclose(outputs["a"], x + 1)
    np.testing.assert_allclose(outputs["b"], x - 1)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return x", "forward gave 1 values; the manifest names 2 outputs"),
        ("return x, x, x", "forward gave 3 values"),
        ("return {'a': x}", r"name \['b'\] too"),
        ("return None", "forward gave NoneType"),
        ("return x, x.mean()", r'output "b" is \[\] for 3 rows'),
        ("return x, x[:1]", r'output "b" is \[1, 4\] for 3 rows'),
        ("return x, x.double()", r'output "b" is torch.float64, the manifest says float32'),
        ("return x, x.bfloat16()", r'output "b" is torch.bfloat16'),
        ("return x, 'text'", r'output "b" is str for 3 rows'),
    ],
)
def test_outputs_that_do_not_fit_the_manifest_are_refused(tmp_path: Path, body: str, says: str) -> None:
    backend = on_cpu(models.module_source(tmp_path / "net", forward(body), "Net", outputs=TWO))
    with pytest.raises(ArtifactError, match=says):
        backend.run({"x": rows(3)})


SAME = (TensorSpec(name="y", dtype="float32", shape=(4,)),)


def test_outputs_that_alias_inputs_are_copied(tmp_path: Path) -> None:
    backend = on_cpu(models.module_source(tmp_path / "net", forward("return x.view_as(x)"), "Net", outputs=SAME))
    x = rows(3)
    y = backend.run({"x": x})["y"]
    assert not np.shares_memory(x, y)


def test_a_model_that_writes_its_inputs_gets_copies_once_found_out(tmp_path: Path) -> None:
    backend = on_cpu(models.module_source(tmp_path / "net", forward("return x.mul_(2)"), "Net", outputs=SAME))
    backend.run({"x": rows(1)})  # warm-up
    x = rows(3)
    np.testing.assert_allclose(backend.run({"x": x})["y"], rows(3) * 2)
    np.testing.assert_array_equal(x, rows(3))


def test_every_forward_runs_under_inference_mode_and_in_eval(tmp_path: Path) -> None:
    body = "return x + float(torch.is_inference_mode_enabled() and not self.training)"
    backend = on_cpu(models.module_source(tmp_path / "net", forward(body), "Net", outputs=SAME))
    x = rows(3)
    np.testing.assert_allclose(backend.run({"x": x})["y"], x + 1)


def test_weights_that_do_not_fit_the_module_are_refused(tmp_path: Path) -> None:
    source = models.LINEAR.replace("self.line", "self.other")
    with pytest.raises(ArtifactError, match=r"weights\.safetensors: does not fit Linear"):
        on_cpu(models.torch_module(tmp_path / "net", source=source))
    with pytest.raises(ArtifactError, match=r'no torch\.nn\.Module named "Absent"'):
        on_cpu(models.torch_module(tmp_path / "absent", class_name="Absent"))
    artifact = models.torch_module(tmp_path / "garbage")
    (artifact.folder / "weights.safetensors").write_bytes(b"garbage")
    with pytest.raises(ArtifactError, match="does not fit Linear"):
        on_cpu(write(artifact.folder, artifact.manifest))


@pytest.mark.parametrize(("backend", "key"), [("pytorch", "program"), ("torchscript", "file")])
@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x05\x06" + b"\0" * 18])
def test_a_file_that_torch_cannot_read_is_refused(tmp_path: Path, backend: str, key: str, content: bytes) -> None:
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"cannot load it"):
        on_cpu(write(tmp_path, models.manifest(backend, {key: "model.bin"})))


@pytest.mark.parametrize("options", [{}, {"program": "a.pt2", "module": "m.py", "class": "C"}, {"module": "m.py"}])
def test_pytorch_options_name_a_program_or_a_module_not_both(tmp_path: Path, options: dict[str, Any]) -> None:
    for name in ("a.pt2", "m.py"):
        (tmp_path / name).write_text("")
    with pytest.raises(ArtifactError, match='give either "program"'):
        write(tmp_path, models.manifest("pytorch", options))


def test_altered_weights_reach_no_loader(linear: Artifact, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in linear.folder.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    artifact = open_artifact(copy)
    for name in artifact.options.files:
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
    with pytest.raises(ArtifactError, match="altered"):
        on_cpu(artifact)
