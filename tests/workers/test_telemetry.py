"""What a runtime does behind our back must not happen in a bank."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="needs the workers extra")


def test_onnx_runtime_leaves_no_device_id_in_the_home_folder(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environ |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", "import workers.backends.onnx"], env=environ, check=True, timeout=60)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
