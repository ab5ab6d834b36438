"""A model that sleeps: every forward takes a given time and no core, so that what is measured is the pool and not the model.

An artifact of the pytorch backend with a module of its own. Its output is the sum of each row, so that an answer can be checked.
"""

from __future__ import annotations

from pathlib import Path

from broker.spec import TensorSpec
from workers.artifact import write
from workers.manifest import Manifest

NAME = "sleeper"
FEATURES = 64
MAX_ROWS = 256

SOURCE = '''
import time

import torch


class Sleeper(torch.nn.Module):
    """y = the sum of each row, after sleep_ms."""

    def __init__(self, sleep_ms: float) -> None:
        super().__init__()
        self.sleep_s = sleep_ms / 1e3

    def forward(self, x):
        time.sleep(self.sleep_s)
        return x.sum(dim=1, keepdim=True, dtype=torch.float32)
'''


def build(
    folder: Path,
    *,
    sleep_ms: float,
    features: int = FEATURES,
    max_rows: int = MAX_ROWS,
    dtype: str = "float32",
    name: str = NAME,
) -> Path:
    """Writes the artifact into `folder` and gives the folder: x [features] of `dtype` -> y float32 [1].

    A forward takes `sleep_ms` whatever its rows. Whoever serves it trusts it first, as `stand.settings_in` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(SOURCE)
    manifest = Manifest(
        format=1,
        name=name,
        version="1",
        backend="pytorch",
        takes="tensors",
        inputs=(TensorSpec(name="x", dtype=dtype, shape=(features,)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(1,)),),
        max_rows=max_rows,
        options={"module": "model.py", "class": "Sleeper", "kwargs": {"sleep_ms": sleep_ms}},
    )
    write(folder, manifest)
    return folder
