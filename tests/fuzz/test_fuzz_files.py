"""Whatever stands in a file of the operator's is what it should be, or one of our errors in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import acl, settings
from broker.embedded import find_server
from broker.errors import ArtifactError, ConfigError
from tests import models
from tests.fuzz.conftest import fuzz
from tests.fuzz.strategies import spoiled
from workers import trust
from workers.artifact import parse

ROOT = Path(settings.__file__).resolve().parents[1]
POOL = (ROOT / "configs" / "pool.toml").read_bytes().replace(b"\n# ", b"\n")
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["x", "float32", "model.onnx"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.mlp(tmp_path_factory.mktemp("fuzz") / "mlp").folder


@st.composite
def changed(draw: Any, whole: dict[str, Any]) -> dict[str, Any]:
    """A copy with one value somewhere replaced by another, or taken away."""
    copy: dict[str, Any] = json.loads(json.dumps(whole))
    place: Any = copy
    while True:
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        if draw(st.booleans()):
            place[key] = draw(_json)
        else:
            del place[key]
        return copy


@fuzz
@given(st.data())
def test_any_manifest_is_one_or_an_artifact_error(built: Path, data: st.DataObject) -> None:
    good = json.loads((built / "manifest.json").read_bytes())
    raw = json.dumps(data.draw(changed(good)))
    folder = built.parent / "spoiled"
    folder.mkdir(exist_ok=True)
    text = raw.encode() if data.draw(st.booleans()) else data.draw(spoiled(st.just(raw.encode())))
    (folder / "manifest.json").write_bytes(text)
    try:
        artifact = parse(folder)
    except ArtifactError:
        return
    assert len(artifact.digest) == 64
    assert artifact.spec.inputs
    assert artifact.row_buckets()
    trust.code_in(artifact)


@fuzz
@given(
    raw=spoiled(st.just(POOL)) | st.lists(st.sampled_from(POOL.splitlines(keepends=True)), max_size=12).map(b"".join)
)
def test_any_pool_toml_is_settings_or_a_config_error(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "pool.toml"
    path.write_bytes(raw)
    try:
        settings.load(str(path), environ={})
    except ConfigError as error:
        assert str(path) in str(error)  # noqa: PT017 - both ends are allowed


@fuzz
@given(raw=spoiled(st.just(b"# ours\n" + b"0" * 64 + b"  # a note\n")))
def test_any_trusted_list_is_digests_or_an_artifact_error(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "trusted.txt"
    path.write_bytes(raw)
    path.chmod(0o600)
    try:
        assert all(len(digest) == 64 for digest in trust.read(path))
    except ArtifactError as error:
        assert str(path) in str(error)  # noqa: PT017 - both ends are allowed


def test_the_version_of_a_binary_that_is_none_is_the_oldest(tmp_path: Path) -> None:
    assert acl.version_of(tmp_path / "none") == acl.OLDEST
    assert acl.version_of(find_server({})) >= acl.OLDEST
