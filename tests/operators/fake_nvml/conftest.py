"""A fake NVML library under the real bindings: compiled once, loaded by a process of its own through LD_LIBRARY_PATH."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent.parent
Ask = Callable[..., Any]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds libnvidia-ml.so.1."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: apt-get install gcc runs these tests")
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("fake_nvml.c")
    built = ["gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(source)]
    subprocess.run(built, check=True, timeout=60)
    return folder


@pytest.fixture
def ask(library: Path, tmp_path: Path) -> Ask:
    """Runs Python on a host with these GPUs (lines of the library's file) and gives the JSON that it prints."""

    def asked(gpus: str, program: str, **environ: str) -> Any:
        (tmp_path / "gpus").write_text(gpus)
        known = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, timeout=60, check=False,
            env={**known, "LD_LIBRARY_PATH": str(library), "FAKE_NVML": str(tmp_path / "gpus"), **environ},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return asked
