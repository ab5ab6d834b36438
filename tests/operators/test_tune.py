"""`penstock tune` as an operator types it: a real model in real engines, wrong inputs as one line."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from pathlib import Path

import numpy as np
import pytest

from broker import settings
from tests import models
from tests.operators.conftest import penstock, penstock_alone

POOL = """\
# kept as it is
[pool]
trusted = "trusted.txt"
[models.mlp]
artifact = "mlp"   # kept too
slots = 1
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A pool that serves the MLP example."""
    models.mlp(tmp_path / "mlp")
    file = tmp_path / "pool.toml"
    file.write_text(POOL)
    file.chmod(0o640)
    return file


def rows(folder: Path, *shape: int) -> Path:
    folder.mkdir(exist_ok=True)
    np.save(folder / "rows.npy", np.random.default_rng(0).normal(size=shape).astype(np.float32))
    return folder


def processes_with(text: str) -> list[str]:
    """Command lines of processes whose environment holds `text`."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if text.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode())
        except OSError:
            continue  # another user's, or gone meanwhile
    return found


def test_a_real_model_is_measured_and_pool_toml_written(config: Path) -> None:
    # when
    data = rows(config.parent / "data", 300, 64)
    answer = penstock_alone("tune", "mlp", "--data", str(data), "--budget-s", "2", "--json", config=config)
    # then: what was measured
    assert answer.returncode == 0, answer.stderr
    assert processes_with(str(config)) == []
    found = json.loads(answer.stdout)
    assert found["model"]["rows"] == 300
    assert [step["rows"] for step in found["steps"]] == sorted(step["rows"] for step in found["steps"])
    assert found["steps"][0]["rows"] == 1
    assert all(cell["ms"] > 0 and cell["runs"] >= 1 and cell["host_bytes"] > 1e6 for cell in found["cells"])
    assert found["cells"][0]["runs"] >= 3, "a busy machine may have no time left for the last"
    assert found["heats"][0]["rows_per_s"] > 0
    # then: what was written, and nothing else
    text = config.read_text()
    written = tomllib.loads(text)["models"]["mlp"]
    assert written == {"artifact": "mlp", **found["values"]}
    assert written["row_buckets"][-1] == written["max_rows"] == found["choice"]["step"]["rows"]
    assert "# kept as it is\n" in text
    assert "# kept too\n" in text
    assert "slot" not in tomllib.loads(text), "without --latency-ms the wait stays as it is"
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    settings.load(str(config), environ={})
    assert sorted(one.name for one in config.parent.iterdir()) == ["data", "mlp", "pool.toml"]


def test_a_folder_gets_a_snippet_beside_it_and_zeros_a_warning(config: Path) -> None:
    config.write_text('[pool]\ntrusted = "trusted.txt"\n')
    arguments = ("tune", str(config.parent / "mlp"), "--budget-s", "1")
    # when
    dry = penstock(*arguments, "--dry-run", config=config)
    assert dry.returncode == 0, dry.stderr
    snippet = config.parent / "mlp.pool.toml"
    assert not snippet.exists()
    assert f"would write {snippet}:" in dry.stdout
    answer = penstock(*arguments, config=config)
    # then
    assert "warning: without --data the model saw zeros" in answer.stdout
    assert "VERDICT" in answer.stdout
    assert tomllib.loads(snippet.read_text())["models"]["mlp"]["artifact"] == str(config.parent / "mlp")
    assert config.read_text() == '[pool]\ntrusted = "trusted.txt"\n'


def test_a_target_out_of_reach_prints_the_table_and_writes_nothing(config: Path) -> None:
    answer = penstock("tune", "mlp", "--latency-ms", "0.5", "--budget-s", "1", config=config)
    assert answer.returncode == 1
    assert "over --latency-ms" in answer.stdout
    assert answer.stderr.splitlines()[-1].startswith("error: --latency-ms 0.5 is out of reach: the best is ")
    assert config.read_text() == POOL


def test_wrong_inputs_are_one_line_with_the_mend(config: Path) -> None:
    folder = config.parent
    wrong = rows(folder / "wrong", 4, 63)
    for given, said in {
        ("mlpp",): 'error: unknown model "mlpp"; did you mean "mlp"?; nor is it a folder',
        (
            "mlp",
            "--data",
            str(wrong),
        ): f"error: {wrong}/rows.npy: input 'x' has shape (4, 63), wanted float32 (rows, 64)",
        (str(wrong),): f"error: {wrong}: holds no manifest.json",
    }.items():
        answer = penstock("tune", *given, config=config)
        assert answer.returncode == 1, given
        assert answer.stderr.startswith(said), answer.stderr
        assert len(answer.stderr.splitlines()) == 1, answer.stderr


def test_an_artifact_with_code_must_be_trusted_as_for_a_slot(config: Path) -> None:
    models.text_length(config.parent / "text")
    config.write_text('[pool]\ntrusted = "trusted.txt"\n[models.text]\nartifact = "text"\n')
    answer = penstock("tune", "text", "--data", str(config.parent), config=config)
    assert answer.returncode == 1
    assert "not trusted" in answer.stderr
    assert "`penstock models trust text`" in answer.stderr
    # and: raw input cannot be made up
    assert penstock("models", "trust", "text", config=config).returncode == 0
    answer = penstock("tune", "text", config=config)
    assert answer.stderr == "error: model 'text' takes text: give --data, a folder of real inputs\n"
