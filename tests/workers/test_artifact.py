"""A manifest and its files are checked before any loader opens them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.errors import ArtifactError
from operators import models as tool
from tests import models
from workers.artifact import open_artifact, parse, seal
from workers.golden import made_from_seed, probe_inputs, probe_mismatch
from workers.manifest import wrong_path
from workers.pipeline import load_pipeline


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.mlp(tmp_path_factory.mktemp("artifact") / "mlp").folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A copy each test may spoil."""
    copy = tmp_path / "mlp"
    copy.mkdir()
    for file in built.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def change(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    raw = json.loads(path.read_bytes())
    change(raw)
    path.write_text(json.dumps(raw))


def refusal(folder: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        open_artifact(folder)
    return str(caught.value)


def test_a_sealed_artifact_opens_and_says_what_producers_need(folder: Path) -> None:
    artifact = open_artifact(folder)
    assert artifact.spec.name == "mlp"
    assert artifact.spec.inputs[0].shape == (64,)
    assert artifact.spec.inputs[0].finite
    assert not artifact.spec.has_postprocess
    assert artifact.row_buckets() == (1, 2, 4, 8, 16, 32, 64, 128, 256)
    assert artifact.row_buckets(48) == (1, 2, 4, 8, 16, 32, 48)
    assert artifact.read("model.onnx") == (folder / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda raw: raw.update(max_row=3), 'unknown key "max_row"; did you mean "max_rows"?'),
        (lambda raw: raw["inputs"][0].update(dtyp="float32"), 'inputs: unknown key "dtyp"; did you mean "dtype"?'),
        (lambda raw: raw["options"].update(fil="x"), 'options: unknown key "fil"; did you mean "file"?'),
        (lambda raw: raw["golden"].update(row=1), 'golden: unknown key "row"; did you mean "rows"?'),
        (lambda raw: raw["golden"]["outputs"]["logits"].update(dat=""), 'unknown key "dat"; did you mean "data"?'),
        (lambda raw: raw["files"][0].update(sha="0"), 'files: unknown key "sha"'),
        (lambda raw: raw.pop("inputs"), "`inputs`"),
        (lambda raw: raw.update(format=2), "format 2, this version reads 1"),
        (lambda raw: raw.update(backend="tensorflow"), "tensorflow"),
        (lambda raw: raw.update(takes="images"), "images"),
        (lambda raw: raw.update(takes="bytes"), '"pipeline" must name the file that defines preprocess'),
        (lambda raw: raw.update(name="pool"), 'not be "pool"'),
        (lambda raw: raw.update(name="a:b"), "letters, digits"),
        (lambda raw: raw.update(version=""), 'version ""'),
        (lambda raw: raw.update(version="1/../2"), "version"),
        (lambda raw: raw.update(max_rows=0), "max_rows = 0 must lie between 1"),
        (lambda raw: raw.update(row_buckets=[1, 4, 2, 256]), "must ascend"),
        (lambda raw: raw.update(row_buckets=[1, 4]), "max_rows, 256"),
        (lambda raw: raw.update(inputs=[]), "inputs names 0 tensors"),
        (lambda raw: raw.update(inputs=raw["inputs"] * 2), "names a tensor twice"),
        (lambda raw: raw["inputs"][0].update(dtype="float31"), 'unknown dtype "float31"; did you mean "float32"?'),
        (lambda raw: raw["inputs"][0].update(shape=["seq"]), 'dimension "seq" varies, so "buckets" must list'),
        (lambda raw: raw["inputs"][0].update(shape=[0]), "a size is at least 1"),
        (lambda raw: raw["inputs"][0].update(shape=[1] * 9), "at most 8 travel"),
        (lambda raw: raw["inputs"][0].update(minimum=2, maximum=1), "minimum 2.0 is above maximum 1.0"),
        (lambda raw: raw["inputs"][0].update(dtype="int32", pad_value=0.5), "pad_value 0.5 is not of dtype int32"),
        (lambda raw: raw.update(buckets={"seq": [8]}), 'unknown dimension "seq"'),
        (lambda raw: raw["options"].update(file="other.onnx"), '"other.onnx" would be opened but does not exist'),
        (lambda raw: raw["options"].update(external=["model.data"]), '"model.data" would be opened but does not exist'),
        (lambda raw: raw["options"].update(file="../model.onnx"), "leads upwards"),
        (lambda raw: raw.update(files=[]), '"model.onnx" would be opened but is not listed in files'),
        (lambda raw: raw.update(files=raw["files"] * 2), "names a path twice"),
        (lambda raw: raw["files"][0].pop("sha256"), "is not 64 hexadecimal digits"),
        (lambda raw: raw["files"][0].pop("size"), "not sealed yet"),
        (lambda raw: raw["files"][0].update(sha256="0" * 64), "model.onnx: altered: sha256"),
        (lambda raw: raw["golden"].update(rows=1000), "golden: rows = 1000"),
        (lambda raw: raw["golden"].update(rows=3), "not 3 rows"),
        (lambda raw: raw["golden"]["outputs"]["logits"].update(data=""), "holds 0 bytes"),
        (lambda raw: raw["golden"]["outputs"]["logits"].update(shape=[-4, -2]), "is negative"),
        (lambda raw: raw["golden"].update(outputs={}), "no outputs to compare with"),
        (lambda raw: raw["options"].update(constants={"x": {"dtype": "int8", "shape": [], "data": "AA=="}}), "drop it from"),
        (lambda raw: raw["options"].update(constants={"k": {"dtype": "int8", "shape": [], "data": ""}}), "holds 0 bytes"),
    ],
)  # fmt: skip
def test_a_wrong_manifest_is_refused_with_what_is_wrong(
    folder: Path, spoil: Callable[[dict[str, Any]], object], says: str
) -> None:
    change(folder, spoil)
    text = refusal(folder)
    assert says in text
    assert str(folder) in text


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 1}', b"null", b'{"name": "\\ud800"}'])
def test_a_manifest_that_is_no_manifest_is_refused(folder: Path, raw: bytes) -> None:
    (folder / "manifest.json").write_bytes(raw)
    assert "manifest.json" in refusal(folder)


def test_a_folder_without_a_manifest_and_no_folder_at_all_are_refused(tmp_path: Path) -> None:
    assert "holds no manifest.json" in refusal(tmp_path)
    assert "no such folder" in refusal(tmp_path / "nowhere")


def test_an_altered_a_truncated_and_a_missing_file_are_told_apart(folder: Path) -> None:
    model = folder / "model.onnx"
    original = model.read_bytes()
    mend = f"run `penstock models seal {folder}` if the change is yours"
    for content, says in (
        (original[:-1] + bytes((original[-1] ^ 1,)), "altered: sha256"),
        (original[:100], "truncated: 100 bytes"),
        (original + b"!", "altered: "),
    ):
        model.write_bytes(content)
        text = refusal(folder)
        assert f"{model}: {says}" in text
        assert mend in text
        with pytest.raises(ArtifactError, match=r"model\.onnx"):
            parse(folder).read("model.onnx")
    model.unlink()
    assert f"{model}: missing" in refusal(folder)


def test_a_file_swapped_after_the_check_is_not_read(folder: Path) -> None:
    artifact = open_artifact(folder)
    content = bytearray((folder / "model.onnx").read_bytes())
    content[50] ^= 0xFF
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match="altered"):
        artifact.read("model.onnx")


def test_links_out_of_the_folder_are_refused_and_links_within_it_are_not(folder: Path, tmp_path: Path) -> None:
    model = folder / "model.onnx"
    model.rename(tmp_path / "outside.onnx")
    model.symlink_to(tmp_path / "outside.onnx")
    assert "a link leads out of the artifact's folder" in refusal(folder)
    with pytest.raises(ArtifactError, match="leads out"):
        seal(folder)
    model.unlink()
    (tmp_path / "outside.onnx").rename(folder / "real.onnx")
    model.symlink_to("real.onnx")
    assert open_artifact(folder).read("model.onnx") == (folder / "real.onnx").read_bytes()
    model.unlink()
    model.symlink_to("model.onnx")
    assert "cannot be followed" in refusal(folder)


def test_a_link_to_the_whole_folder_is_fine(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    assert open_artifact(tmp_path / "current").spec.name == "mlp"


def test_a_manifest_that_is_a_link_to_elsewhere_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "manifest.json").rename(tmp_path / "manifest.json")
    (folder / "manifest.json").symlink_to(tmp_path / "manifest.json")
    assert "leads out" in refusal(folder)


def test_a_pipe_in_place_of_a_file_is_refused_and_does_not_hang(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")
    assert "not a regular file" in refusal(folder)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../model.onnx",
        "a/../../x",
        "a/..",
        "..",
        ".",
        "",
        "./model.onnx",
        "a//b",
        "a/",
        "a\\b",
        "a\0b",
        "\n",
    ],
)
def test_paths_that_could_lead_elsewhere_are_refused(folder: Path, path: str) -> None:
    change(folder, lambda raw: raw["files"].append({"path": path, "size": 0, "sha256": "0" * 64}))
    assert repr(path) in refusal(folder)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.text(alphabet=st.sampled_from(list("ab./\\~\0 \u202e\udfffé")), max_size=12))
def test_no_path_of_a_manifest_reaches_outside_its_folder(folder: Path, path: str) -> None:
    if not wrong_path(path):
        assert Path(os.path.normpath(folder / path)).is_relative_to(folder)
    (folder.parent / "secret").write_text("secret")
    artifact = open_artifact(folder)
    if path != "model.onnx":
        with pytest.raises(ArtifactError):
            artifact.read(path)
        with pytest.raises(ArtifactError):
            artifact.path(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(
        [
            "format",
            "name",
            "version",
            "inputs",
            "outputs",
            "max_rows",
            "options",
            "files",
            "golden",
            "buckets",
            "pipeline",
        ]
    ),
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["path", "size", "name", "file", "rows"]) | st.text(max_size=3), inner, max_size=3
            )
        ),
        max_leaves=6,
    ),
)
def test_any_value_in_a_manifest_gives_an_artifact_or_an_artifact_error(
    built: Path, folder: Path, key: str, value: Any
) -> None:
    (folder / "manifest.json").write_bytes((built / "manifest.json").read_bytes())
    change(folder, lambda raw: raw.update({key: value}))
    try:
        open_artifact(folder)
    except ArtifactError as error:
        assert str(folder) in str(error)  # noqa: PT017 - both ends are allowed


def test_sealing_lists_every_file_and_keeps_the_rest_of_the_manifest(folder: Path) -> None:
    (folder / "labels").mkdir()
    (folder / "labels" / "names.json").write_text("[]")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_text("")
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"")
    before = json.loads((folder / "manifest.json").read_bytes())
    seal(folder)
    after = json.loads((folder / "manifest.json").read_bytes())
    assert [file["path"] for file in after["files"]] == ["labels/names.json", "model.onnx"]
    assert {**after, "files": 0} == {**before, "files": 0}
    assert open_artifact(folder).read("labels/names.json") == b"[]"


def test_a_pipeline_runs_from_checked_bytes_and_reads_listed_files_only(tmp_path: Path) -> None:
    artifact = models.text_length(tmp_path / "text")
    assert artifact.spec.has_postprocess
    assert artifact.spec.takes == "text"
    pipeline = load_pipeline(artifact)
    assert pipeline is not None
    assert pipeline.preprocess is not None
    assert pipeline.postprocess is not None
    good, bad = pipeline.preprocess(["abc", ""])
    assert isinstance(good, dict)
    assert good["x"].tolist() == [3.0] * 4
    assert isinstance(bad, ValueError)
    assert pipeline.postprocess({"y": np.full((4, 4), 3.0)}, 2) == [{"length": 3.0}] * 2
    with (artifact.folder / "pipeline.py").open("a") as file:
        file.write("import os\n")
    with pytest.raises(ArtifactError, match=r"pipeline\.py: altered"):
        load_pipeline(artifact)


def test_a_pipeline_gets_a_reader_for_its_own_files(tmp_path: Path) -> None:
    artifact = models.text_length(tmp_path / "text")
    (artifact.folder / "labels.json").write_text('["a"]')
    (artifact.folder / "pipeline.py").write_text(
        "import json\ndef setup(read):\n    global LABELS\n    LABELS = json.loads(read('labels.json'))\n"
        "def preprocess(items):\n    return LABELS\n"
    )
    seal(artifact.folder)
    pipeline = load_pipeline(open_artifact(artifact.folder))
    assert pipeline is not None
    assert pipeline.preprocess is not None
    preprocess: Any = pipeline.preprocess
    assert preprocess([]) == ["a"]
    assert pipeline.postprocess is None


def test_a_pipeline_that_is_not_python_or_lacks_preprocess_is_refused(tmp_path: Path) -> None:
    artifact = models.text_length(tmp_path / "text")
    (artifact.folder / "pipeline.py").write_text("def preprocess(:\n")
    seal(artifact.folder)
    assert "pipeline.py: not Python" in refusal(artifact.folder)
    (artifact.folder / "pipeline.py").write_text("x = 1\n")
    seal(artifact.folder)
    assert 'takes is "text", so it must define preprocess' in refusal(artifact.folder)


def test_opening_an_artifact_never_runs_its_pipeline(tmp_path: Path) -> None:
    artifact = models.text_length(tmp_path / "text")
    (artifact.folder / "pipeline.py").write_text("raise SystemExit('ran')\ndef preprocess(items): ...\n")
    seal(artifact.folder)
    assert open_artifact(artifact.folder).spec.takes == "text"


def test_golden_inputs_made_from_a_seed_are_the_same_everywhere(folder: Path) -> None:
    manifest = open_artifact(folder).manifest
    x = probe_inputs(manifest)["x"]
    assert x.shape == (4, 64)
    assert x.dtype == np.float32
    assert x[0, :3].tolist() == [-0.761010468006134, 0.11626149713993073, 0.391541987657547]
    whole = made_from_seed(manifest.inputs[0], (1000, 64), 1)
    assert -1 <= whole.min() < -0.99
    assert 0.99 < whole.max() <= 1


def test_outputs_that_differ_from_the_golden_ones_are_told(folder: Path) -> None:
    manifest = open_artifact(folder).manifest
    assert manifest.golden is not None
    want: Any = manifest.golden.outputs["logits"].array()
    assert probe_mismatch(manifest, {"logits": want}) == ""
    assert probe_mismatch(manifest, {"logits": np.concatenate([want, want])}) == ""  # padded rows
    assert 'golden probe: "logits" is off by 0.5' in probe_mismatch(manifest, {"logits": want + np.float32(0.5)})
    assert "shape" in probe_mismatch(manifest, {"logits": want[:, :1]})
    assert "off by nan" in probe_mismatch(manifest, {"logits": want * np.float32(np.nan)})


def test_the_tool_describes_verifies_and_seals(folder: Path) -> None:
    told = tool.describe(folder)
    assert (told["name"], told["backend"], told["has_golden_probe"]) == ("mlp", "onnx", True)
    json.dumps(told)
    assert tool.verify(folder) == []
    (folder / "extra.bin").write_bytes(b"1")
    tool.seal(folder)
    (folder / "extra.bin").write_bytes(b"2")
    (folder / "model.onnx").unlink()
    problems = tool.verify(folder)
    assert len(problems) == 2
    assert "extra.bin: altered" in problems[0]
    (folder / "manifest.json").write_text("{}")
    assert "manifest.json" in tool.verify(folder)[0]


def test_artifacts_devices_and_memory_load_no_runtime() -> None:
    code = (
        "import sys, workers.artifact, workers.devices, workers.memory, workers.golden, operators.models;"
        "workers.devices.parse('cuda:0'); workers.memory.host_bytes();"
        "print(sorted({'torch', 'onnxruntime', 'onnx', 'pynvml', 'redis'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_row_buckets_of_pool_toml_go_before_the_manifests_and_end_at_the_most_rows(tmp_path: Path) -> None:
    found = models.mlp(tmp_path)
    assert found.row_buckets(32, (1, 8, 64)) == (1, 8, 32)
    assert found.row_buckets(0, (1, 8)) == (1, 8, 256)
    assert found.row_buckets(4) == (1, 2, 4)
