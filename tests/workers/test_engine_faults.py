"""The engine's side of a fault: what it frees, when it asks the device, and how its process ends."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.errors import DeviceError
from broker.messages import Kind, Status
from tests import models
from tests.wait import wait_until
from tests.workers.fakes import SPEC, Arrays, Client, Doubler, FakeEngine, RunningSlot
from workers.artifact import Artifact, write
from workers.backends import load
from workers.backends.pulse import Pulse
from workers.engine import warm
from workers.engine_client import EngineDied, EngineProcess, make_slabs
from workers.exchange import Ran, Run, TooLarge
from workers.exits import Exit
from workers.forward import Forward


class Weighty(Doubler):
    """Runs out of memory with a large tensor in a local variable, as models do."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = type(error), str(error)
        self.was_gone: bool | None = None
        self._seen: Any = None

    def run(self, inputs: Arrays) -> Arrays:
        activations = np.ones(1000)
        self._seen = weakref.ref(activations)
        kind, text = self._error
        raise kind(text)  # made here: one that a local variable holds is in a cycle, which only `free` can collect

    def free(self) -> None:
        super().free()
        self.was_gone = self._seen() is None


def forward(backend: Doubler) -> Forward:
    return Forward(SPEC, backend, FakeEngine(SPEC, backend).slabs, None)


def test_the_failed_batch_is_let_go_before_memory_is_freed() -> None:
    backend = Weighty(MemoryError("no room"))
    gc.disable()  # so that only the reference count can have let it go
    try:
        ran = forward(backend).run(Run(1, 0, 2, 2))
    finally:
        gc.enable()
    assert (ran.reason, ran.error) == ("out_of_memory", "MemoryError: no room")
    assert backend.was_gone is True


@pytest.mark.parametrize(
    ("error", "probes"),
    [(ValueError("x"), 0), (ConnectionError("x"), 0), (RuntimeError("x"), 1), (MemoryError(), 1)],
)
def test_the_device_is_asked_only_where_the_error_leaves_open_whether_it_works(error: Exception, probes: int) -> None:
    backend = Weighty(error)
    forward(backend).run(Run(1, 0, 2, 2))
    assert backend.probes == probes


def test_a_device_that_cannot_be_asked_is_broken() -> None:
    class Deaf(Weighty):
        def free(self) -> None:
            raise RuntimeError("CUDA error: unspecified launch failure")

    assert forward(Deaf(MemoryError())).run(Run(1, 0, 2, 2)).reason == "device_fault"


# --- backends ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_a_backend_on_the_cpu_is_always_sound_and_runs_on_after_freeing(tmp_path: Path, kind: str) -> None:
    if kind == "torch":
        pytest.importorskip("torch")
        artifact = models.torch_module(tmp_path / "torch")
    else:
        artifact = write(models.onnx_linear(tmp_path / "onnx"), models.manifest("onnx", {"file": "model.onnx"}))
    backend = load(artifact, device="cpu", threads=1)
    x = np.ones((4, 4), np.float32)
    before = backend.run({"x": x})["y"]
    backend.free()
    assert backend.probe()
    for _ in range(2):  # the first run gives the arena's memory back
        assert (backend.run({"x": x})["y"] == before).all()


class Driver:
    """libcuda, as far as the pulse uses it; from `codes` on it answers every call with that error."""

    def __init__(self) -> None:
        self.code = 0
        self.pushed = 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        assert name.startswith("cu")

        def call(*_: object) -> int:
            if not self.code:
                self.pushed += {"cuCtxPushCurrent_v2": 1, "cuCtxPopCurrent_v2": -1}.get(name, 0)
            return self.code

        return call


def test_the_drivers_pulse_tells_a_poisoned_context_and_leaves_no_context_pushed() -> None:
    driver = Driver()
    pulse = Pulse(0, driver)
    assert pulse.beats()
    assert driver.pushed == 0
    driver.code = 700
    assert not pulse.beats()
    with pytest.raises(DeviceError, match="cuInit failed with error 700"):
        Pulse(0, driver)


# --- the process ------------------------------------------------------------------------------

BREAKS = """
import numpy as np

ASSERT = "CUDA error: device-side assert triggered\\nSearch for `cudaErrorAssert' in https://docs.nvidia.com"

def preprocess(items):
    if "break" in items:
        raise RuntimeError(ASSERT)
    return [{"x": np.full(4, len(item), np.float32)} for item in items]
"""


@pytest.fixture
def breaking(tmp_path: Path) -> Artifact:
    """A text model without torch whose pipeline meets a poisoned context."""
    artifact = models.text_length(tmp_path / "text")
    (artifact.folder / "pipeline.py").write_text(BREAKS)
    return write(artifact.folder, artifact.manifest)


@pytest.fixture
def engine(breaking: Artifact) -> Iterator[EngineProcess]:
    engine = EngineProcess(
        breaking,
        slabs=make_slabs(breaking, max_rows=64, raw_bytes=1 << 20),
        device="cpu",
        threads=1,
        row_buckets=(1, 64),
    )
    engine.start()
    wait_until(engine.poll_ready, "the engine is ready", timeout=30)
    yield engine
    engine.kill()
    engine.close()


@pytest.mark.timeout(30)
def test_an_engine_whose_device_broke_answers_once_and_ends_with_a_code_of_its_own(engine: EngineProcess) -> None:
    engine.slabs[0].input[:5] = b"break"
    engine.send(Run(1, 0, 1, 1, lengths=[5]))
    answer = engine.collect()
    assert isinstance(answer, Ran)
    assert answer.reason == "device_fault"
    assert answer.error.startswith("cudaErrorAssert (710): RuntimeError: CUDA error: device-side assert triggered")
    with pytest.raises(EngineDied, match="exited with code 73"):
        engine.collect()


def test_a_slot_whose_engine_broke_exits_at_once_and_says_which_error_it_was(
    redis_url: str, link: object, breaking: Artifact, engine: EngineProcess
) -> None:
    slot = RunningSlot(redis_url, model=breaking.spec, engine=engine)
    client = Client(redis_url, breaking.spec)
    slot.thread.start()
    (fine,) = client.wait(client.submit(b"four", kind=Kind.TEXT))
    client.submit(b"break", kind=Kind.TEXT)
    verdict = slot.join()
    client.link.close()
    slot.slot.close()
    assert fine.status is Status.DONE
    assert (verdict.exit, verdict.exit.value) == (Exit.DEVICE_FAULT, 73)
    assert "cudaErrorAssert" in verdict.detail


# --- the warm-up ------------------------------------------------------------------------------


class Small(Doubler):
    """Has room for so many rows."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def run(self, inputs: Arrays) -> Arrays:
        if len(inputs["x"]) > self.room:
            raise MemoryError(f"{len(inputs['x'])} rows are too many")
        return super().run(inputs)


def test_a_model_whose_largest_batches_do_not_fit_is_served_with_smaller_ones() -> None:
    backend = Small(room=8)
    times, too_large = warm(forward(backend), SPEC, (1, 4, 16, 64))
    assert [one.rows for one in times] == [1, 4]
    assert too_large == [TooLarge(16, ())]
    assert backend.freed == 1
    with pytest.raises(DeviceError, match="cpu has no room for the smallest batch, 16 rows; free memory on it"):
        warm(forward(backend), SPEC, (16, 64))
