"""What an artifact may try to reach beyond its listed files: neighbours, other folders, devices, libraries. All refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from broker.errors import ArtifactError
from tests import models
from workers.artifact import open_artifact, parse, seal, write
from workers.backends import load
from workers.pipeline import load_module


@pytest.mark.parametrize("kind", ["fifo", "folder", "socket", "device"])
def test_what_is_no_regular_file_is_refused_without_being_read(kind: str, tmp_path: Path) -> None:
    import socket

    folder = models.mlp(tmp_path / "mlp").folder
    path = folder / "model.onnx"
    path.unlink()
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "socket":
            if len(str(path)) > 100:
                pytest.skip("the temporary folder's path is too long for a socket")
            end = socket.socket(socket.AF_UNIX)
            end.bind(str(path))
            end.close()
        case "device":
            if os.getuid() != 0:
                pytest.skip("only root may make a device node")
            try:
                os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero: reading it would never end
            except PermissionError:
                pytest.skip("this machine forbids device nodes")
    with pytest.raises(ArtifactError, match=r"not a regular file|cannot be read"):
        open_artifact(folder)


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "sub"])
def test_a_link_in_the_way_to_a_file_is_refused_when_it_leads_out(target: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    folder = models.mlp(tmp_path / "mlp").folder
    (tmp_path / "outside" / "weights.bin").write_bytes(b"1")
    if target == "../outside":
        (folder / "sub").symlink_to(target)
        name = "sub/weights.bin"
    else:
        name = "weights.bin"
        (folder / name).symlink_to(target if target.startswith("/") else folder / "nowhere")
    raw = (folder / "manifest.json").read_text().replace('"files": [', f'"files": [{{"path": "{name}"}},', 1)
    (folder / "manifest.json").write_text(raw)
    with pytest.raises(ArtifactError, match=r"leads out of the artifact's folder|missing"):
        open_artifact(folder)


def test_a_pipeline_cannot_import_a_file_that_lies_beside_it(tmp_path: Path) -> None:
    # given a neighbour that is not in the manifest
    artifact = models.text_length(tmp_path / "text")
    (artifact.folder / "pipeline.py").write_text("import neighbour_of_pipeline\n" + models.TEXT)
    seal(artifact.folder)
    (artifact.folder / "neighbour_of_pipeline.py").write_text("raise SystemExit('ran')\n")
    # then
    with pytest.raises(ModuleNotFoundError, match="neighbour_of_pipeline"):
        load_module(open_artifact(artifact.folder), "pipeline.py")


def test_no_bytecode_is_read_in_place_of_the_checked_source(tmp_path: Path) -> None:
    artifact = models.text_length(tmp_path / "text")
    cache = artifact.folder / "__pycache__"
    cache.mkdir()
    (cache / "pipeline.cpython-311.pyc").write_bytes(b"not what was sealed")
    assert hasattr(load_module(open_artifact(artifact.folder), "pipeline.py"), "preprocess")
    assert [path.name for path in cache.iterdir()] == ["pipeline.cpython-311.pyc"], "and none is written"


def graph_of(folder: Path, location: str) -> Path:
    """A model whose weights are said to lie at `location`."""
    onnx = pytest.importorskip("onnx")
    folder = models.onnx_linear(folder)
    graph = onnx.load(str(folder / "model.onnx"))
    for tensor in graph.graph.initializer:
        onnx.external_data_helper.set_external_data(tensor, location=location, offset=0, length=len(tensor.raw_data))
        tensor.ClearField("raw_data")
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    return folder


@pytest.mark.parametrize("location", ["/etc/passwd", "../outside.bin", "beside.bin", "a/../../outside.bin"])
def test_weights_that_an_onnx_graph_fetches_from_elsewhere_are_refused(location: str, tmp_path: Path) -> None:
    folder = graph_of(tmp_path / "onnx", location)
    (tmp_path / "outside.bin").write_bytes(b"\0" * 64)
    artifact = write(folder, models.manifest("onnx", {"file": "model.onnx"}))
    (folder / "beside.bin").write_bytes(b"\0" * 64)  # not sealed
    with pytest.raises(ArtifactError) as caught:
        load(artifact, device="cpu", threads=1)
    assert f'its weights lie in "{location}", which the manifest does not name' in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("location", ["/etc/passwd", "../outside.bin"])
def test_naming_such_weights_in_the_manifest_does_not_help(location: str, tmp_path: Path) -> None:
    folder = graph_of(tmp_path / "onnx", location)
    (tmp_path / "outside.bin").write_bytes(b"\0" * 64)
    with pytest.raises(ArtifactError, match=r"is absolute|leads upwards"):
        write(folder, models.manifest("onnx", {"file": "model.onnx", "external": [location]}))


def test_a_graph_with_an_operator_of_a_foreign_library_is_refused_in_one_line(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    folder = tmp_path / "onnx"
    folder.mkdir()
    node = helper.make_node("Evil", ["x"], ["y"], domain="evil.ops")
    graph = helper.make_graph(
        [node], "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("evil.ops", 1)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(folder / "model.onnx"))
    artifact = write(folder, models.manifest("onnx", {"file": "model.onnx"}))
    with pytest.raises(ArtifactError, match=r"ONNX Runtime cannot load it: .*evil\.ops"):
        load(artifact, device="cpu", threads=1)


def test_a_manifest_cannot_name_a_library_of_operators(tmp_path: Path) -> None:
    folder = models.onnx_linear(tmp_path / "onnx")
    (folder / "ops.so").write_bytes(b"\x7fELF")
    options: dict[str, Any] = {"file": "model.onnx", "custom_ops": "ops.so"}
    with pytest.raises(ArtifactError, match='unknown key "custom_ops"'):
        write(folder, models.manifest("onnx", options))


def test_what_a_backend_gets_is_what_was_checked_whatever_happens_to_the_file_after(tmp_path: Path) -> None:
    artifact = open_artifact(models.mlp(tmp_path / "mlp").folder)
    (artifact.folder / "model.onnx").write_bytes(b"another model of any size")
    with pytest.raises(ArtifactError, match=r"model\.onnx: (altered|truncated)"):
        load(artifact, device="cpu", threads=1)
    assert parse(artifact.folder).digest == artifact.digest
