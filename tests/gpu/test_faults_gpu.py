"""Real faults of a real GPU, seen through to recovery: a device-side assert, and memory that is not there.

Each slot has the real engine process and the real Redis. Memory is made scarce by this process, which holds all but a little.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker import caps, keys, spec
from broker.connection import Link
from broker.messages import Outcome, Status
from broker.queue import Queue
from tests import models
from tests.wait import wait_until
from tests.workers.fakes import DEFAULTS, DEVICE, ROW_BUCKETS, Client, RunningSlot, first
from workers.artifact import Artifact, write
from workers.devices import _driver_devices
from workers.engine_client import EngineProcess, make_slabs
from workers.exits import Exit

torch = pytest.importorskip("torch", reason="needs the workers extra")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not _driver_devices() or not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def has_onnx_on_gpu() -> bool:
    """Whether ONNX Runtime is here in a build for CUDA; a machine with torch alone runs the rest."""
    try:
        import onnxruntime
    except ImportError:
        return False
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


needs_onnx = pytest.mark.skipif(not has_onnx_on_gpu(), reason="needs onnxruntime-gpu")
GIB = 1 << 30
LEFT_GIB, ROW_GIB = 10.0, 1.5  # 4 rows fit into what is left, 8 do not
ASSERTING = '''
import torch

class Asserting(torch.nn.Module):
    """Doubles the first number by a table of 512; one out of its range is a device-side assert."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", 2.0 * torch.arange(512))

    def forward(self, x):
        y = self.table[x[:, 0].long()]
        return torch.stack((y, y), dim=1)
'''
HUNGRY = '''
import torch

class Hungry(torch.nn.Module):
    """Doubles; takes as many GiB for a moment as the second numbers of all rows add up to."""

    def forward(self, x):
        taken = torch.empty(int(float(x[:, 1].sum()) * 2**30), dtype=torch.uint8, device=x.device)
        return 2 * x[:, :2] + 0 * taken.numel()
'''


def hungry_graph(folder: Path) -> Artifact:
    """The same for ONNX Runtime: a tensor of doubles as large as the rows say, of which one value is read."""
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True)
    models.onnx_file(
        folder / "model.onnx",
        [
            helper.make_node("Slice", ["x", "one", "two", "one"], ["second"]),
            helper.make_node("ReduceSum", ["second"], ["gib"], keepdims=0),
            helper.make_node("Mul", ["gib", "per_gib"], ["doubles"]),
            helper.make_node("Cast", ["doubles"], ["count"], to=TensorProto.INT64),
            helper.make_node("Max", ["count", "at_least"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["taken"],
                             value=helper.make_tensor("value", TensorProto.DOUBLE, [1], [0.0])),
            helper.make_node("Gather", ["taken", "first"], ["wide"]),
            helper.make_node("Cast", ["wide"], ["zero"], to=TensorProto.FLOAT),
            helper.make_node("Slice", ["x", "none", "two", "one"], ["head"]),
            helper.make_node("Add", ["head", "head"], ["doubled"]),
            helper.make_node("Add", ["doubled", "zero"], ["y"]),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
        [
            numpy_helper.from_array(np.array([0], np.int64), "none"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(np.array([2], np.int64), "two"),
            numpy_helper.from_array(np.array([0], np.int64), "first"),
            numpy_helper.from_array(np.array([1], np.int64), "at_least"),
            numpy_helper.from_array(np.array([GIB / 8], np.float32), "per_gib"),
        ],
    )  # fmt: skip
    return write(folder, models.manifest("onnx", {"file": "model.onnx"}, name="hungry"))


def started(artifact: Artifact) -> EngineProcess:
    """The real engine on the first GPU, warm."""
    slabs = make_slabs(artifact, max_rows=ROW_BUCKETS[-1], raw_bytes=1 << 20)
    engine = EngineProcess(artifact, slabs=slabs, device="cuda:0", threads=1, row_buckets=ROW_BUCKETS)
    engine.start()
    ready = wait_until(engine.poll_ready, "the engine is ready", timeout=180)
    assert ready.device == "cuda:0"
    return engine


@contextmanager
def scarce() -> Iterator[None]:
    """All but LEFT_GIB of the device's memory is taken."""
    free, _ = torch.cuda.mem_get_info(0)
    if free < (LEFT_GIB + 1) * GIB:
        pytest.skip(f"only {free / GIB:.1f} GiB are free on the device")
    held = torch.empty(int(free - LEFT_GIB * GIB), dtype=torch.uint8, device="cuda:0")
    try:
        yield
    finally:
        del held
        torch.cuda.empty_cache()


def rows(*numbers: float, gib: float = 0.0) -> list[np.ndarray[Any, Any]]:
    """One job of one row a number."""
    return [np.array([[number, gib, 0, 0]], np.float32) for number in numbers]


def values(outcomes: list[Outcome]) -> list[float]:
    return [first(one) for one in outcomes]


def life(redis_url: str, artifact: Artifact) -> RunningSlot:
    """A slot's life with an engine of its own, which must end by itself."""
    engine = started(artifact)
    slot = RunningSlot(redis_url, model=artifact.spec, engine=engine)
    slot.thread.start()
    slot.join()
    engine.kill()
    engine.close()
    slot.slot.close()
    return slot


def test_a_device_side_assert_costs_one_job_and_the_next_engine_works(
    redis_url: str, link: Link, tmp_path: Path
) -> None:
    artifact = models.module_source(tmp_path / "asserting", ASSERTING, "Asserting", name="asserting")
    Queue(artifact.spec.name, "nobody").ensure_groups(link)
    spec.publish(link, artifact.spec, DEFAULTS)
    client = Client(redis_url, artifact.spec)
    ids = client.submit(*rows(1.0, 100_000.0, 2.0))
    lives = [life(redis_url, artifact).join() for _ in range(3)]
    assert [verdict.exit for verdict in lives] == [Exit.DEVICE_FAULT] * 3
    assert "cudaErrorAssert (710)" in lives[0].detail
    engine = started(artifact)
    with RunningSlot(redis_url, model=artifact.spec, engine=engine):
        outcomes = client.wait([ids[0], ids[2]], within_s=60)
        assert values(outcomes) == [2.0, 4.0]
        (dead,) = client.wait([ids[1]], within_s=60)
        assert values(client.wait(client.submit(*rows(5.0)))) == [10.0], "the device works in the new process"
    engine.kill()
    assert (dead.status, dead.note["reason"]) == (Status.DEAD, "device_fault")
    ((_, fields),) = link.call("XRANGE", keys.dead(artifact.spec.name), "-", "+")
    assert b"device_fault" in fields
    assert client.left() == (0, 0)
    client.link.close()


@pytest.mark.parametrize("kind", ["torch", pytest.param("onnx", marks=needs_onnx)])
def test_out_of_memory_halves_batches_learns_the_cap_and_the_same_engine_goes_on(
    redis_url: str, link: Link, tmp_path: Path, kind: str
) -> None:
    if kind == "torch":
        artifact = models.module_source(tmp_path / "hungry", HUNGRY, "Hungry", name="hungry")
    else:
        artifact = hungry_graph(tmp_path / "hungry")
    engine = started(artifact)
    pid = engine.pid
    slot = RunningSlot(redis_url, model=artifact.spec, engine=engine)
    client = Client(redis_url, artifact.spec)
    numbers = [float(number) for number in range(16)]
    with scarce():
        ids = client.submit(*rows(*numbers, gib=ROW_GIB))
        with slot:
            assert values(client.wait(ids, within_s=120)) == [2 * number for number in numbers]
            known = wait_until(lambda: caps.load(link, artifact.spec.name, DEVICE), "the cap is shared")
            assert known[()].rows == 4, "4 rows of 1.5 GiB fit into 10 GiB, 8 do not"
            (big,) = client.wait(client.submit(*rows(7.0, gib=2 * LEFT_GIB)), within_s=60)
            assert (big.status, big.note["reason"]) == (Status.DEAD, "does_not_fit")
            assert values(client.wait(client.submit(*rows(*numbers)), within_s=60)) == [2 * n for n in numbers]
            assert engine.pid == pid, "no new process was needed"
    engine.kill()
    assert client.left() == (0, 0)
    client.link.close()


PULSE = """
import torch
from workers.backends.pulse import Pulse

pulse = Pulse(0)
table = torch.zeros(4, device="cuda:0")
torch.cuda.synchronize()
print(pulse.beats())
try:
    table[torch.full((4,), 1000, device="cuda:0")].cpu()
except RuntimeError as error:
    print(type(error).__name__)
print(pulse.beats())
sys.stdout.flush()
os._exit(0)
"""


def test_the_drivers_pulse_stops_with_a_poisoned_context() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "import os, sys\n" + PULSE], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.stdout.split() == ["True", "AcceleratorError", "False"], ran.stderr


@pytest.mark.parametrize("kind", ["torch", pytest.param("onnx", marks=needs_onnx)])
def test_a_probe_of_each_backend_passes_on_a_sound_device(tmp_path: Path, kind: str) -> None:
    from workers.backends import load

    if kind == "torch":
        artifact = models.module_source(tmp_path / "torch", HUNGRY, "Hungry", name="hungry")
    else:
        artifact = hungry_graph(tmp_path / "onnx")
    backend = load(artifact, device="cuda:0", threads=1)
    assert backend.probe()
    backend.free()
    assert backend.run({"x": np.array([[1, 0, 0, 0]] * 2, np.float32)})["y"][0, 0] == 2
    assert backend.probe()
