"""Artifacts that run code when they are loaded are loaded only when their manifest's digest is on the trusted list."""

from __future__ import annotations

import os
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker import roster
from broker.connection import Link
from broker.errors import ArtifactError
from broker.roster import Assignment
from broker.settings import Settings
from operators import models as tool
from operators.plan import check_artifact
from tests import models
from tests.operators.conftest import penstock
from workers import trust
from workers.artifact import Artifact, open_artifact, seal, write
from workers.engine import load_and_warm
from workers.engine_client import make_slabs
from workers.exits import Exit
from workers.life import Life

LEFT = "import pathlib; pathlib.Path({path!r}).touch()\n"


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Where a trusted list may stand; there is none yet."""
    return tmp_path / "configs" / "trusted.txt"


def settings_of(folder: Path, name: str, **changes: Any) -> Settings:
    raw: dict[str, Any] = {"models": {name: {"artifact": str(folder)}}, "root": str(folder.parent)}
    return msgspec.convert(raw | changes, Settings)


def made(folder: Path, backend: str, options: dict[str, Any], file: str) -> Artifact:
    """An artifact of one file. Nothing here ever loads it, so it need not be a model."""
    folder.mkdir()
    (folder / file).write_bytes(b"no model")
    return write(folder, models.manifest(backend, options))


@pytest.mark.parametrize(
    ("backend", "options", "file"),
    [
        ("pytorch", {"module": "model.py", "class": "Model"}, "model.py"),
        ("pytorch", {"program": "model.pt2"}, "model.pt2"),
        ("torchscript", {"file": "model.ts"}, "model.ts"),
    ],
)
def test_what_runs_code_is_refused_until_it_is_trusted(
    backend: str, options: dict[str, Any], file: str, tmp_path: Path, listed: Path
) -> None:
    artifact = made(tmp_path / "artifact", backend, options, file)
    assert trust.code_in(artifact) == [file]
    text = trust.problem(artifact, listed)
    assert text.startswith(
        f"{artifact.folder}: not trusted: {file} runs code when loaded; look at where it came from, then"
    )
    assert text.endswith(f"`penstock models trust {artifact.manifest.name}`")
    assert tool.verify(artifact.folder, trusted=listed) == [text]
    with pytest.raises(ArtifactError, match=f"model {artifact.manifest.name}: .*not trusted"):
        check_artifact(settings_of(artifact.folder, artifact.manifest.name), artifact.manifest.name)
    # when
    told = tool.trust_artifact(artifact.folder, listed)
    # then
    assert (told["is_newly_trusted"], told["code"]) == (True, [file])
    assert trust.problem(artifact, listed) == ""
    assert tool.verify(artifact.folder, trusted=listed) == []
    assert not tool.trust_artifact(artifact.folder, listed)["is_newly_trusted"], "one line is enough"
    assert len(trust.read(listed)) == 1


def test_plain_onnx_runs_no_code_and_needs_no_trust(tmp_path: Path, listed: Path) -> None:
    artifact = models.mlp(tmp_path / "mlp")
    assert trust.code_in(artifact) == []
    assert trust.problem(artifact, listed) == ""


def test_the_digest_is_that_of_the_manifest_so_any_change_is_another_artifact(tmp_path: Path, listed: Path) -> None:
    artifact = models.text_length(tmp_path / "text")
    assert artifact.digest == sha256((artifact.folder / "manifest.json").read_bytes()).hexdigest()
    trust.add(artifact, listed)
    # when the pipeline is changed, its checksum in the manifest as well
    with (artifact.folder / "pipeline.py").open("a") as file:
        file.write("import os\n")
    sealed = seal(artifact.folder)
    # then
    assert sealed.digest == open_artifact(artifact.folder).digest != artifact.digest
    assert "not trusted" in trust.problem(sealed, listed)


def test_an_artifact_that_does_not_verify_cannot_be_trusted(tmp_path: Path, listed: Path) -> None:
    artifact = models.text_length(tmp_path / "text")
    (artifact.folder / "pipeline.py").write_text("x = 1\n")
    with pytest.raises(ArtifactError, match=r"pipeline\.py: altered|truncated"):
        tool.trust_artifact(artifact.folder, listed)
    assert not listed.exists()


def test_sealing_here_trusts_what_runs_code_and_says_so(tmp_path: Path, listed: Path) -> None:
    text, mlp = models.text_length(tmp_path / "text"), models.mlp(tmp_path / "mlp")
    assert tool.seal(text.folder, trusted=listed)["is_newly_trusted"]
    assert not tool.seal(mlp.folder, trusted=listed)["is_newly_trusted"], "there is nothing to trust"
    assert trust.read(listed) == {open_artifact(text.folder).digest}


def test_the_list_says_what_each_digest_was_and_keeps_what_stands_in_it(tmp_path: Path, listed: Path) -> None:
    listed.parent.mkdir()
    listed.write_text(f"# ours\n\n{'0' * 64}")  # no newline at the end
    artifact = models.text_length(tmp_path / "text")
    trust.add(artifact, listed)
    first, *_, last = listed.read_text().splitlines()
    assert first == "# ours"
    assert last.startswith(f"{artifact.digest}  # text 1, 20")
    assert trust.read(listed) == {"0" * 64, artifact.digest}


@pytest.mark.parametrize("line", ["0" * 63, "0" * 64 + " text", "G" * 64, "sha256:" + "0" * 64, "*"])
def test_a_list_with_a_line_that_is_no_digest_is_refused_whole(line: str, listed: Path) -> None:
    listed.parent.mkdir()
    listed.write_text(f"# ours\n{line}\n")
    with pytest.raises(ArtifactError, match=r"trusted\.txt:2: no sha256"):
        trust.read(listed)


def test_a_list_everybody_may_write_to_is_no_list(tmp_path: Path, listed: Path) -> None:
    trust.add(models.text_length(tmp_path / "text"), listed)
    listed.chmod(0o666)
    with pytest.raises(ArtifactError, match="everybody may write to it; `chmod o-w"):
        trust.read(listed)


def test_a_slot_refuses_before_any_code_runs(redis_url: str, link: Link, tmp_path: Path) -> None:
    # given an artifact that leaves a trace when it is loaded
    artifact = models.text_length(tmp_path / "text")
    trace = tmp_path / "ran"
    (artifact.folder / "pipeline.py").write_text(LEFT.format(path=str(trace)) + models.TEXT)
    seal(artifact.folder)
    settings = settings_of(
        artifact.folder, "text", redis={"url": redis_url}, pool={"var_dir": str(tmp_path / "var"), "host": "h"}
    )
    roster.assign(link, "h", 0, Assignment("text", str(artifact.folder)))
    # when
    life = Life(settings, 0, is_inline=True)
    given_up = threading.Timer(20, life.stop)  # one that loads it would serve for ever
    given_up.start()
    # then
    assert life.live() is Exit.LOAD_FAILED
    given_up.cancel()
    assert "not trusted" in life.board.reason
    assert not trace.exists()
    assert [one.reason for one in roster.exits(link)] == ["load_failed"]


def test_the_engine_loads_the_very_manifest_its_slot_has_looked_at(tmp_path: Path) -> None:
    artifact = models.text_length(tmp_path / "text")
    slabs = make_slabs(artifact, max_rows=4, raw_bytes=1 << 16)
    trace = tmp_path / "ran"
    # when it is exchanged for another one, sealed well, after the slot's look
    (artifact.folder / "pipeline.py").write_text(LEFT.format(path=str(trace)) + models.TEXT)
    seal(artifact.folder)
    # then
    with pytest.raises(ArtifactError, match="changed since it was checked a moment ago"):
        load_and_warm(
            str(artifact.folder), device="cpu", threads=1, slabs=slabs, row_buckets=(1,), digest=artifact.digest
        )
    assert not trace.exists()
    for slab in slabs:
        slab.close()


def test_the_commands_say_it_in_one_line(tmp_path: Path) -> None:
    artifact = models.text_length(tmp_path / "text")
    config = tmp_path / "pool.toml"
    config.write_text('[models.text]\nartifact = "text"\n')
    refused = penstock("up", config=config)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "not trusted: pipeline.py runs code when loaded; look at where it came from" in refused.stderr
    assert not (tmp_path / "var").exists()
    trusted = penstock("models", "trust", "text", config=config)
    assert trusted.stdout.startswith(
        f"trusted text 1: {artifact.digest[:12]}… was added to {tmp_path}/configs/trusted.txt"
    )
    assert trust.read(tmp_path / "configs" / "trusted.txt") == {artifact.digest}


def test_the_list_may_stand_anywhere_and_is_read_relative_to_the_pools_root(tmp_path: Path) -> None:
    raw: dict[str, Any] = {"root": str(tmp_path), "pool": {"trusted": "/etc/penstock/trusted.txt"}}
    assert msgspec.convert(raw, Settings).trusted == Path("/etc/penstock/trusted.txt")
    assert msgspec.convert({"root": str(tmp_path)}, Settings).trusted == tmp_path / "configs" / "trusted.txt"
    assert os.path.isabs(msgspec.convert({}, Settings).trusted)
