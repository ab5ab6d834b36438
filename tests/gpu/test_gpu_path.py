"""The GPU path on a real GPU: pinned slabs, overlap, CUDA graphs, precision, shares of memory, devices by uuid, many lives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from broker.spec import TensorSpec
from tests import models
from tests.wait import wait_until
from workers.artifact import Artifact, write
from workers.backends import load
from workers.devices import _driver_devices
from workers.engine_client import EngineProcess, make_slabs
from workers.exchange import Measure, Measured, Ran, Run

torch = pytest.importorskip("torch", reason="needs the workers extra")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not _driver_devices() or not torch.cuda.is_available(), reason="needs a CUDA device"),
]

WIDE = 4096
BUCKETS = (1, 4, 16, 64)
X = (TensorSpec(name="x", dtype="float32", shape=(WIDE,)),)
Y = (TensorSpec(name="y", dtype="float32", shape=(WIDE,)),)
SLOW = """
import torch

class Slow(torch.nn.Module):
    \"\"\"y = x + 1, after some milliseconds of work that leaves the value alone.\"\"\"

    def __init__(self):
        super().__init__()
        self.register_buffer("eye", torch.eye(4096))

    def forward(self, x):
        y = x
        for _ in range(8):
            y = y @ self.eye
        return y + 1
"""
MLP = """
import torch

class Mlp(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up = torch.nn.Linear(4096, 512)
        self.down = torch.nn.Linear(512, 4096)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))
"""
BRANCHES = """
import torch

class Branches(torch.nn.Module):
    def forward(self, x):
        return x + 1 if float(x[0, 0]) >= 0 else x - 1
"""


def net(folder: Path, source: str, **options: Any) -> Artifact:
    name = source.partition("class ")[2].partition("(")[0]
    made = models.module_source(folder, source, name, inputs=X, outputs=Y, row_buckets=BUCKETS)
    return write(folder, msgspec.structs.replace(made.manifest, options={**made.manifest.options, **options}))


def started(artifact: Artifact, *, device: str = "cuda:0", memory_fraction: float = 0.0) -> EngineProcess:
    slabs = make_slabs(artifact, max_rows=BUCKETS[-1], raw_bytes=1 << 20)
    engine = EngineProcess(
        artifact, slabs=slabs, device=device, threads=1, row_buckets=BUCKETS, memory_fraction=memory_fraction
    )
    engine.start()
    wait_until(engine.poll_ready, "the engine is ready", timeout=180)
    return engine


def ended(engine: EngineProcess) -> None:
    engine.kill()
    engine.close()


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[EngineProcess]:
    engine = started(net(tmp_path, SLOW))
    yield engine
    ended(engine)


def rows(seed: int, count: int) -> Any:
    return np.random.default_rng(seed).normal(size=(count, WIDE)).astype(np.float32)


def put(engine: EngineProcess, seq: int, x: Any, bucket: int) -> None:
    slab = engine.slabs[seq % 2]
    np.frombuffer(slab.input, np.float32)[: x.size] = x.ravel()
    np.frombuffer(slab.output, np.float32)[:] = np.nan
    engine.send(Run(seq, seq % 2, len(x), bucket))


def take(engine: EngineProcess, seq: int, count: int) -> Any:
    said = engine.collect()
    assert isinstance(said, Ran)
    assert (said.seq, said.error) == (seq, "")
    return np.frombuffer(engine.slabs[seq % 2].output, np.float32)[: count * WIDE].reshape(count, WIDE)


def test_slabs_are_pinned_in_the_eyes_of_torch_and_given_back(tmp_path: Path) -> None:
    artifact = net(tmp_path, MLP)
    backend: Any = load(artifact, device="cuda:0", threads=1)
    slabs = make_slabs(artifact, max_rows=64, raw_bytes=1 << 20)
    backend.attach(slabs, has_postprocess=False)
    for slab in slabs:
        assert torch.frombuffer(slab.input, dtype=torch.uint8).is_pinned()
        assert torch.frombuffer(slab.output, dtype=torch.uint8).is_pinned()
    backend.detach()
    assert not torch.frombuffer(slabs[0].input, dtype=torch.uint8).is_pinned()


def test_a_slab_rewritten_right_after_its_answer_changes_no_output_over_500_batches(slow: EngineProcess) -> None:
    shapes = [(1 + 7 * seq % 64, next(size for size in BUCKETS if size >= 1 + 7 * seq % 64)) for seq in range(502)]
    for seq in (0, 1):
        put(slow, seq, rows(seq, shapes[seq][0]), shapes[seq][1])
    for seq in range(500):
        got = take(slow, seq, shapes[seq][0]).copy()
        put(slow, seq + 2, rows(seq + 2, shapes[seq + 2][0]), shapes[seq + 2][1])
        np.testing.assert_allclose(got, rows(seq, shapes[seq][0]) + 1, rtol=1e-2, atol=1e-2)
    for seq in (500, 501):
        take(slow, seq, shapes[seq][0])


def test_graphs_answer_as_eager_forwards_do_at_every_bucket(tmp_path: Path) -> None:
    eager: Any = load(net(tmp_path / "eager", MLP), device="cuda:0", threads=1)
    captured: Any = load(net(tmp_path / "captured", MLP, cuda_graphs=True), device="cuda:0", threads=1)
    for count in BUCKETS:
        captured.run({"x": rows(0, count)})
    for count in BUCKETS:
        assert captured.prepare({"x": rows(0, count)}), captured._graphs.why_not
    for seed in range(3):
        for count in (*BUCKETS, *reversed(BUCKETS)):
            x = rows(seed, count)
            np.testing.assert_allclose(captured.run({"x": x})["y"], eager.run({"x": x})["y"], rtol=1e-5, atol=1e-5)
    before = captured.device_bytes()
    captured.free()
    assert captured.device_bytes() <= before
    np.testing.assert_allclose(captured.run({"x": x})["y"], eager.run({"x": x})["y"], rtol=1e-5, atol=1e-5)


def test_a_model_that_cannot_be_captured_runs_eagerly_and_rightly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    artifact = net(tmp_path, BRANCHES, cuda_graphs=True)
    engine = started(artifact)
    try:
        for seq, sign in enumerate((1.0, -1.0, 1.0)):
            put(engine, seq, np.full((4, WIDE), sign, np.float32), 4)
            assert (take(engine, seq, 4) == 2 * sign).all()
    finally:
        ended(engine)
    assert capfd.readouterr().err.count("cuda graphs off") == 1


@pytest.mark.parametrize(("precision", "most"), [("float16", 5e-3), ("bfloat16", 4e-2)])
def test_half_precision_is_near_the_full_one(tmp_path: Path, precision: str, most: float) -> None:
    full: Any = load(net(tmp_path / "full", MLP), device="cuda:0", threads=1)
    half: Any = load(net(tmp_path / "half", MLP, precision=precision), device="cuda:0", threads=1)
    x = rows(0, 64)
    right, got = full.run({"x": x})["y"], half.run({"x": x})["y"]
    assert got.dtype == np.float32
    assert np.linalg.norm(got - right) / np.linalg.norm(right) < most


def test_a_slot_keeps_to_its_share_of_the_memory(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from workers import devices\n"
        "devices.for_torch('cuda:0', memory_fraction=0.02)\n"
        "total = torch.cuda.get_device_properties(0).total_memory\n"
        "torch.empty(int(0.01 * total), dtype=torch.uint8, device='cuda:0')\n"
        "try:\n    torch.empty(int(0.03 * total), dtype=torch.uint8, device='cuda:0')\n"
        "except torch.OutOfMemoryError:\n    print('kept')\n"
    )
    assert python(code) == "kept"
    engine = started(net(tmp_path, MLP), memory_fraction=0.05)
    ended(engine)


def test_a_gpu_is_named_by_its_uuid(tmp_path: Path) -> None:
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    engine = started(net(tmp_path, MLP), device=uuid)
    put(engine, 0, rows(0, 1), 1)
    take(engine, 0, 1)
    ended(engine)
    code = (
        "from workers import devices\n"
        f"where = devices.for_torch({uuid!r})\n"
        "import torch; print(where, torch.cuda.device_count(), torch.cuda.get_device_properties(where).uuid)"
    )
    assert python(code) == f"cuda:0 1 {uuid.removeprefix('GPU-')}"


def test_device_memory_is_back_after_an_engine_ended_and_steady_while_one_serves(tmp_path: Path) -> None:
    artifact = net(tmp_path, MLP, cuda_graphs=True)
    torch.cuda.mem_get_info(0)  # this process's own context first
    ended(started(artifact))
    before = free()
    for _ in range(3):
        engine = started(artifact)
        engine.send(Measure())
        first = engine.collect()
        for seq in range(40):
            put(engine, seq, rows(seq, 64), 64)
            take(engine, seq, 64)
        engine.send(Measure())
        second = engine.collect()
        assert isinstance(first, Measured)
        assert isinstance(second, Measured)
        assert first.device_bytes is not None
        assert second.device_bytes is not None
        assert second.device_bytes - first.device_bytes < 8 << 20
        ended(engine)
    wait_until(lambda: before - free() < 64 << 20, "the device has its memory back", timeout=20)


def free() -> int:
    return int(torch.cuda.mem_get_info(0)[0])


def python(code: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()
