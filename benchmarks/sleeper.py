"""A model that sleeps: every forward takes a given time and no core, so that what is measured is the pool and not the model.

An artifact of the pytorch backend with a module of its own. Its output is the sum of each row, so that an answer can be checked. It may
note its forwards; see `forwards`.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.forwards import MARK
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
    """y = the sum of each row, after sleep_ms. `notes`: a file that gets a line for each forward, "" none."""

    def __init__(self, sleep_ms: float, notes: str, mark: float) -> None:
        super().__init__()
        self.sleep_s = sleep_ms / 1e3
        self.notes = open(notes, "a", buffering=1) if notes else None
        self.mark = mark

    def forward(self, x):
        began = time.monotonic()
        time.sleep(self.sleep_s)
        y = x.sum(dim=1, keepdim=True, dtype=torch.float32)
        if self.notes is not None:
            took_s, first = time.monotonic() - began, x[:, 0]
            marked = int((first == self.mark).sum())
            self.notes.write(f"{began:.6f} {took_s:.6f} {marked} {int((first != 0).sum()) - marked}\\n")
        return y
'''


def build(
    folder: Path,
    *,
    sleep_ms: float,
    features: int = FEATURES,
    max_rows: int = MAX_ROWS,
    dtype: str = "float32",
    name: str = NAME,
    notes: Path | None = None,
) -> Path:
    """Writes the artifact into `folder` and gives the folder: x [features] of `dtype` -> y float32 [1].

    A forward takes `sleep_ms` whatever its rows; each is noted in the file `notes`. Whoever serves it trusts it first, as
    `stand.settings_in` does.
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
        options={
            "module": "model.py",
            "class": "Sleeper",
            "kwargs": {"sleep_ms": sleep_ms, "notes": str(notes or ""), "mark": MARK},
        },
    )
    write(folder, manifest)
    return folder
