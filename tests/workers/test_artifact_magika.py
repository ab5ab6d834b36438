"""The magika example, on a stand-in for its wheel: the same files, a model of three labels."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest

from examples.magika.build import MODEL, build
from tests import models
from workers.artifact import Artifact
from workers.backends import load
from workers.golden import probe_inputs, probe_mismatch
from workers.pipeline import Pipeline, load_pipeline

pytest.importorskip("onnxruntime", reason="needs the workers extra")

CONFIG = {
    "beg_size": 1024, "mid_size": 0, "end_size": 1024, "use_inputs_at_offsets": False, "padding_token": 256,
    "block_size": 4096, "min_file_size_for_dl": 8, "medium_confidence_threshold": 0.5, "thresholds": {"b": 0.9},
    "target_labels_space": ["a", "b", "randomtxt"], "overwrite_map": {"randomtxt": "txt"},
}  # fmt: skip


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    from onnx import TensorProto, helper, numpy_helper

    folder = tmp_path_factory.mktemp("magika")
    models.onnx_file(
        folder / "model.onnx",
        [
            helper.make_node("Cast", ["bytes"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["floats", "w"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["target_label"], axis=1),
        ],
        [helper.make_tensor_value_info("bytes", TensorProto.INT32, ["rows", 2048])],
        [helper.make_tensor_value_info("target_label", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(np.random.default_rng(0).normal(0, 1e-4, (2048, 3)).astype(np.float32), "w")],
    )
    with zipfile.ZipFile(folder / "magika.whl", "w") as wheel:
        wheel.write(folder / "model.onnx", f"{MODEL}/model.onnx")
        wheel.writestr(f"{MODEL}/config.min.json", json.dumps(CONFIG))
    return build(folder / "artifact", folder / "magika.whl")


@pytest.fixture
def pipeline(artifact: Artifact) -> Pipeline:
    loaded = load_pipeline(artifact)
    assert loaded is not None
    return loaded


def features(pipeline: Pipeline, content: bytes) -> list[int]:
    assert pipeline.preprocess is not None
    (row,) = pipeline.preprocess([content])
    assert isinstance(row, dict)
    assert row["bytes"].dtype == np.int32
    values: list[int] = row["bytes"].tolist()
    return values


def test_features_are_the_stripped_ends_padded_away_from_the_edge(pipeline: Pipeline) -> None:
    short = features(pipeline, b"  \nhello world\n ")
    assert bytes(short[:13]) == b"hello world\n "
    assert short[13:1024] == [256] * 1011
    assert bytes(short[-14:]) == b"  \nhello world"
    assert short[1024:-14] == [256] * 1010
    content = bytes(range(33, 127)) * 200
    long = features(pipeline, content)
    assert bytes(long[:1024]) == content[:1024]
    assert bytes(long[1024:]) == content[-1024:]


def test_only_the_first_and_last_block_are_looked_at(pipeline: Pipeline) -> None:
    content = b"x" * 8 + b" " * 10_000 + b"y" * 8
    row = features(pipeline, content)
    assert bytes(row[:8]) == b"x" * 8
    assert bytes(row[-8:]) == b"y" * 8
    assert 256 not in row[:1024]  # spaces inside a block stay
    assert 256 not in row[1024:]


@pytest.mark.parametrize("content", [b"", b"1234567", b" " * 5000, b"\n\n1234567"])
def test_content_too_short_to_tell_fails_alone(pipeline: Pipeline, content: bytes) -> None:
    assert pipeline.preprocess is not None
    good, bad = pipeline.preprocess([b"long enough", content])
    assert isinstance(good, dict)
    assert isinstance(bad, ValueError)
    assert "too few to tell" in str(bad)


def test_scores_become_labels_with_magikas_own_names_and_thresholds(pipeline: Pipeline) -> None:
    assert pipeline.postprocess is not None
    scores = np.array([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7], [9, 9, 9]], np.float32)
    told = pipeline.postprocess({"target_label": scores}, 3)
    assert [(one["label"], one["is_confident"]) for one in told] == [("a", True), ("b", False), ("txt", True)]
    assert told[0]["confidence"] == pytest.approx(0.6)


def test_the_built_artifact_loads_and_answers_its_golden_probe(artifact: Artifact) -> None:
    assert artifact.spec.takes == "bytes"
    assert artifact.spec.has_postprocess
    backend = load(artifact, device="cpu", threads=1)
    assert probe_mismatch(artifact.manifest, backend.run(probe_inputs(artifact.manifest))) == ""
