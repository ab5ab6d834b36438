"""Magika on real files: one slot against the same session called in a bare loop. Bytes in, labels out, on both sides.

The bare loop has no Redis and no second process: preprocess, session.run, postprocess on full batches in this process. It runs at
16 files a batch and at 32, the slot's largest; the ratio is taken to the size that is faster here.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from benchmarks import bare, files, machine, report, spread
from benchmarks.files import Sample
from benchmarks.sizes import Size
from benchmarks.spread import Figures
from benchmarks.stand import ROOT, Stand, clean_environment, slot
from broker.embedded import temporary_server
from producer import Producer
from workers.artifact import open_artifact
from workers.pipeline import load_pipeline

FOLDER = ROOT / "var" / "models" / "magika"
BATCHES = (16, 32)
TIMEOUT_S = 120.0
WITHOUT_NETWORK = "python examples/magika/build.py --wheel magika-1.0.3-*.whl --out var/models/magika"


class Missing(Exception):
    """Raised when the model cannot be had; the text says what to do."""


class Speed(msgspec.Struct, frozen=True):
    """Files a second, the mean batch, and the labels given, in the files' order."""

    files_per_s: float
    mean_batch: float
    labels: list[str]


def measure(folder: Path, size: Size, raw: Figures) -> Figures:
    """Bare and ours in turns; labels must agree but for those at the edge."""
    try:
        artifact = build()
    except Missing as missing:
        print(f"bench: {missing}; magika is left out", file=sys.stderr)
        return {}
    samples = files.find(size.magika_files)
    loop = BareLoop(artifact)
    bares: dict[int, list[Speed]] = {batch: [] for batch in BATCHES}
    ours: list[Speed] = []
    with (
        temporary_server(folder / "magika") as url,
        slot(folder / "magika", url, "magika", artifact) as stand,
        Producer(url) as producer,
        machine.on_last_core(stand.engine_pid),
    ):
        through_penstock(stand, producer, samples[:64])  # warm-up
        for batch in BATCHES:
            loop.measure(samples[:64], batch)
        for _ in range(size.magika_rounds):
            for batch, speeds in bares.items():
                with machine.on_last_core():
                    speeds.append(loop.measure(samples, batch))
            ours.append(through_penstock(stand, producer, samples))
        about = report.about(stand.link)
    raw["magika"] = {
        "bare": {str(batch): [one.files_per_s for one in speeds] for batch, speeds in bares.items()},
        "ours": [one.files_per_s for one in ours],
    }
    fastest = max(bares, key=lambda batch: median(one.files_per_s for one in bares[batch]))
    pairs = list(zip(bares[fastest], ours, strict=True))
    differing = max(
        sum(a != b for a, b in zip(one.labels, mine.labels, strict=True)) for one, mine in pairs
    )  # other batch sizes round otherwise: a file between two labels may fall to either side
    found = {
        **about,
        **spread.of("magika_ratio", [mine.files_per_s / one.files_per_s for one, mine in pairs], 3),
        **spread.of("magika_files_per_s", [mine.files_per_s for mine in ours], 1),
        "magika_mean_batch": round(median(mine.mean_batch for mine in ours), 1),
        "magika_files": len(samples),
        "magika_labels_differing": differing,
    }
    for batch, speeds in bares.items():
        found |= spread.of(f"bare_magika_{batch}_files_per_s", [one.files_per_s for one in speeds], 1)
    return found


def build() -> Path:
    """The sealed artifact in var/models/magika, built from its PyPI wheel unless it is there. Raises Missing."""
    from operators import models

    if FOLDER.is_dir() and not models.verify(FOLDER):
        return FOLDER
    command = [sys.executable, str(ROOT / "examples" / "magika" / "build.py"), "--download", "--out", str(FOLDER)]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise Missing(f"the magika model could not be built ({said}); without a network: {WITHOUT_NETWORK}")
    return FOLDER


class BareLoop:
    """The session and the artifact's own code, called in turn."""

    def __init__(self, folder: Path) -> None:
        artifact = open_artifact(folder)
        pipeline = load_pipeline(artifact)
        assert pipeline is not None
        self._pipeline: Any = pipeline
        self._run = bare.session(artifact.read("model.onnx")).run

    def measure(self, samples: list[Sample], size: int) -> Speed:
        """All files, `size` at a time."""
        import numpy as np

        labels: list[str] = []
        started = time.perf_counter()
        for at in range(0, len(samples), size):
            part = samples[at : at + size]
            rows = self._pipeline.preprocess([sample.content for sample in part])
            (scores,) = self._run(["target_label"], {"bytes": np.stack([row["bytes"] for row in rows])})
            labels += [one["label"] for one in self._pipeline.postprocess({"target_label": scores}, len(part))]
        took_s = time.perf_counter() - started
        return Speed(len(samples) / took_s, len(samples) / -(-len(samples) // size), labels)


def through_penstock(stand: Stand, producer: Producer, samples: list[Sample]) -> Speed:
    """Ours: the clock runs from the first submit to the last label."""
    rows, batches = stand.batches()
    started = time.perf_counter()
    handles = producer.submit_many(stand.model, [sample.content for sample in samples])
    labels = [handle.result(TIMEOUT_S).value["label"] for handle in handles]
    took_s = time.perf_counter() - started
    more_rows, more_batches = stand.batches()
    return Speed(len(samples) / took_s, (more_rows - rows) / (more_batches - batches), labels)
