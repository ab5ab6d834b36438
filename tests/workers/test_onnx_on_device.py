"""I/O binding, pinned slabs and graph ids of ONNX Runtime: the logic, with buffers of the CPU. The device itself: tests/gpu."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from broker import settings
from broker.errors import ConfigError, DeviceError
from tests import models
from tests.workers.test_engine_faults import Driver
from workers import devices
from workers.artifact import write
from workers.backends import OnDevice, Overlapping, onnx
from workers.backends.onnx_cuda import CudaOnnx
from workers.backends.pulse import Pulse
from workers.engine_client import make_slabs


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: made)
    return made


def backend(folder: Path, *, is_captured: bool = False) -> Any:
    """The GPU's backend around a session of the CPU, whose buffers lie there too."""
    models.onnx_linear(folder)
    session = onnxruntime.InferenceSession((folder / "model.onnx").read_bytes(), providers=[devices.CPU_PROVIDER])
    made = CudaOnnx(session, device="cuda:0", is_captured=is_captured, inputs=("x",), outputs=("y",), constants={})
    made._place = "cpu"
    return made


def expected(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x @ models.LINEAR_WEIGHT.T + models.LINEAR_BIAS


def test_each_shape_keeps_its_buffers_and_every_run_gets_its_own_inputs(driver: Driver, tmp_path: Path) -> None:
    one = backend(tmp_path)
    random = np.random.default_rng(0)
    for at in range(6):
        x = random.normal(size=(1 + at % 3, 4)).astype(np.float32)
        np.testing.assert_allclose(one.run({"x": x})["y"], expected(x), rtol=1e-5)
    assert len(one._bound) == 3


def test_a_shape_prepared_for_replay_answers_as_before_and_out_of_memory_ends_it(
    driver: Driver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = backend(tmp_path, is_captured=True)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    before = one.run({"x": x})["y"].copy()
    assert one.prepare({"x": x})
    np.testing.assert_array_equal(one.run({"x": x})["y"], before)
    one.free()
    assert not one._graphs
    assert "cuda graphs off" in capsys.readouterr().err
    assert not one.prepare({"x": x})


def test_a_capture_that_fails_leaves_the_model_eager_and_a_broken_device_is_refused(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = backend(tmp_path, is_captured=True)
    x = np.ones((2, 4), np.float32)

    def fails(*_: Any) -> None:
        raise RuntimeError("capture failed")

    with monkeypatch.context() as patched:
        patched.setattr(one._session, "run_with_iobinding", fails)
        assert not one.prepare({"x": x})
    np.testing.assert_allclose(one.run({"x": x})["y"], expected(x), rtol=1e-5)
    assert "capture failed" in capsys.readouterr().err
    one._may_capture = True
    monkeypatch.setattr(Pulse, "beats", lambda _: False)
    monkeypatch.setattr(one._session, "run_with_iobinding", fails)
    with pytest.raises(DeviceError, match="set its option cuda_graphs to false"):
        one.prepare({"x": x})


def test_its_slabs_are_pinned_and_it_does_not_claim_to_overlap(driver: Driver, tmp_path: Path) -> None:
    one = backend(tmp_path)
    assert isinstance(one, OnDevice)
    assert not isinstance(one, Overlapping)
    artifact = write(tmp_path, models.manifest("onnx", {"file": "model.onnx"}))
    one.attach(make_slabs(artifact, max_rows=4, raw_bytes=1 << 16), has_postprocess=False)
    assert len(one._pinned) == 2
    one.detach()


def test_the_arena_is_bounded_by_the_slots_share_of_the_memory(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_driver_devices", lambda: 1)
    monkeypatch.setattr(devices, "_total_bytes", lambda *_: 80 << 30)
    _, ((name, options),) = devices.for_onnx("cuda:0", memory_fraction=0.25)
    assert (name, options["gpu_mem_limit"]) == (devices.CUDA_PROVIDER, str(20 << 30))
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    _, ((_, free),) = devices.for_onnx("cuda:0")
    assert "gpu_mem_limit" not in free


def test_a_device_that_does_not_tell_its_memory_cannot_be_shared_by_fractions(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_driver_devices", lambda: 1)
    driver.code = 999
    with pytest.raises(DeviceError, match="memory_fraction cannot be kept; set it to 0"):
        devices.for_onnx("cuda:0", memory_fraction=0.5)


def test_torchs_allocator_is_told_the_slots_share(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="needs the workers extra")
    told: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *told_it: told.append(told_it))
    assert devices.for_torch("cuda:1", memory_fraction=0.45) == "cuda:1"
    assert devices.for_torch("cuda:0") == "cuda:0"
    assert told == [(0.45, 1)]


@pytest.mark.parametrize(
    ("share", "says"), [("1.5", "must be 1 or less"), ("-0.5", "must be 0 or more"), ('"half"', "a number")]
)
def test_a_share_of_memory_that_cannot_be_is_refused(tmp_path: Path, share: str, says: str) -> None:
    file = tmp_path / "pool.toml"
    file.write_text(f'[models.m]\nartifact = "m"\nmemory_fraction = {share}\n')
    with pytest.raises(ConfigError, match=says):
        settings.load(str(file), environ={})


def test_a_graph_that_cannot_be_captured_gets_a_plain_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    made = object()

    def session(graph: bytes, settings: Any, providers: list[Any]) -> Any:
        asked.append(providers[0][1])
        if "enable_cuda_graph" in providers[0][1]:
            raise onnx._RUNTIME_ERRORS[0]("the model has control flow nodes")
        return made

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    assert onnx._capturing(b"", None, [(devices.CUDA_PROVIDER, {"device_id": "0"})]) == (made, False)
    assert asked == [{"device_id": "0", "enable_cuda_graph": "1"}, {"device_id": "0"}]
    assert "control flow" in capsys.readouterr().err
