"""Devices are what pool.toml says or an error; memory figures are measured or absent."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from broker.errors import DeviceError
from workers import devices, memory

HAS_DRIVER = devices._driver_devices() is not None
cpu_only = pytest.mark.skipif(HAS_DRIVER, reason="a CUDA driver is here; this is about machines without")


@pytest.mark.parametrize(
    ("text", "kind", "name", "uuid"),
    [
        ("cpu", "cpu", "cpu", ""),
        ("cuda", "cuda", "cuda:0", ""),
        ("cuda:3", "cuda", "cuda:3", ""),
        ("GPU-8f3a4c1e-aaaa", "cuda", "cuda:0", "GPU-8f3a4c1e-aaaa"),
        ("MIG-8f3a4c1e-aaaa", "cuda", "cuda:0", "MIG-8f3a4c1e-aaaa"),
    ],
)
def test_a_device_is_named_in_one_of_four_ways(text: str, kind: str, name: str, uuid: str) -> None:
    device = devices.parse(text)
    assert (device.kind, device.name, device.uuid) == (kind, name, uuid)


@pytest.mark.parametrize("text", ["", "CPU", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:0 ", "cuda:0\n", "GPU-", "mps"])
def test_any_other_name_is_refused_with_those_that_are_possible(text: str) -> None:
    with pytest.raises(DeviceError, match='write "cpu", "cuda", "cuda:0"'):
        devices.parse(text)


@cpu_only
@pytest.mark.parametrize("text", ["cuda", "cuda:1", "GPU-8f3a4c1e-aaaa"])
@pytest.mark.parametrize("ask", [devices.for_torch, devices.for_onnx, devices.check_device])
def test_cuda_where_there_is_none_is_one_line_with_the_mend(
    ask: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(devices.VISIBLE, "")  # put back after a uuid was asked for
    with pytest.raises(DeviceError) as caught:
        ask(text)
    assert f'device = "{text}" was asked for' in str(caught.value)
    assert 'set device = "cpu" in pool.toml' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_session_that_fell_back_to_the_cpu_is_refused() -> None:
    devices.confirm_onnx("cpu", ["CPUExecutionProvider"])
    devices.confirm_onnx("cuda:0", ["CUDAExecutionProvider", "CPUExecutionProvider"])
    for providers in (["CPUExecutionProvider"], ["CPUExecutionProvider", "CUDAExecutionProvider"], []):
        with pytest.raises(DeviceError, match="ONNX Runtime fell back to"):
            devices.confirm_onnx("cuda:0", providers)


def test_a_gpu_number_beyond_those_visible_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_driver_devices", lambda: 2)
    with pytest.raises(DeviceError, match="2 GPUs are visible"):
        devices.for_onnx("cuda:2")
    assert "number 1 of 2" in devices.check_device("cuda:1")


class FakeNvmlError(Exception):
    pass


def fake_nvml(processes: list[SimpleNamespace]) -> SimpleNamespace:
    """Answers like pynvml; the second GPU tells neither name nor memory."""

    def told(handle: int, value: Any) -> Any:
        if handle == 1:
            raise FakeNvmlError
        return value

    return SimpleNamespace(
        NVMLError=FakeNvmlError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}",
        nvmlDeviceGetName=lambda handle: told(handle, b"Fake"),
        nvmlDeviceGetMemoryInfo=lambda handle: told(handle, SimpleNamespace(total=8 << 30, free=6 << 30)),
        nvmlDeviceGetComputeRunningProcesses=lambda handle: told(handle, processes),
    )


def test_fake_nvml_what_the_driver_does_not_tell_stays_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([]))
    assert devices.gpus() == [devices.Gpu("GPU-0", "Fake", 8 << 30, 6 << 30), devices.Gpu("GPU-1", "", None, None)]
    monkeypatch.setattr(devices, "gpus", lambda: [devices.Gpu("GPU-8f3a4c1e", "Fake", 8 << 30, 6 << 30)])
    assert devices.check_device("GPU-8f3a") == "Fake GPU-8f3a4c1e, 6144 of 8192 MB free"
    with pytest.raises(DeviceError, match="it lists GPU-8f3a4c1e"):
        devices.check_device("GPU-1111")


@pytest.mark.parametrize(
    ("processes", "told"),
    [
        ([], None),
        ([(os.getpid(), None)], None),
        ([(os.getpid(), 0)], None),
        ([(1, 500)], None),
        ([(os.getpid(), 500), (1, 7)], 500),
    ],
)
def test_fake_nvml_own_memory_counts_only_when_positive_and_ours(
    processes: list[tuple[int, int | None]], told: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in processes]
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(listed))
    assert devices.own_bytes(os.getpid()) == told


def test_without_pynvml_or_a_driver_there_are_no_gpus_and_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert devices.gpus() == []
    assert devices.own_bytes(os.getpid()) is None


def test_host_bytes_follows_anonymous_memory_up_and_down() -> None:
    before = memory.host_bytes()
    block = np.ones(8 << 20, np.float64)  # 64 MB
    grown = memory.host_bytes()
    assert 60 << 20 < grown - before < 80 << 20
    del block
    assert memory.host_bytes() - before < 8 << 20
