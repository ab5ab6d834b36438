"""`python -m benchmarks.gpu` runs, at tiny sizes and on the CPU: no figure of a GPU, and it says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the workers extra")

from benchmarks.gpu.__main__ import RESULTS, SMOKE, main


def test_the_benchmark_runs_on_the_cpu_and_calls_its_figures_a_smoke_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "smoke.json"
    sizes = ["--models", "minilm", "--rows", "1", "--precision", "float32", "--jobs", "8", "--single", "2"]
    assert main(["--device", "cpu", *sizes, "--retirements", "0", "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert (figures["device"], figures["smoke"]) == ("cpu", SMOKE)
    (cell,) = figures["cells"]
    assert cell["model"] == "minilm"
    assert cell["bare_rows_per_s"] > 0
    assert cell["pool_rows_per_s"] > 0
    assert cell["busy_share"] is None, "nothing tells it here"
    assert SMOKE in capsys.readouterr().out


def test_a_smoke_run_never_becomes_the_gpus_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu"]) == 1
    assert main(["--device", "cpu", "--out", str(RESULTS)]) == 1
    assert "no figure of a GPU; name another file with --out" in capsys.readouterr().out
