"""Free memory as measured; what nobody tells stays unknown."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from operators import device_watch, devices
from operators.device_watch import DeviceWatch
from operators.devices import free_device_bytes, free_host_bytes
from operators.hardware import Hardware

GB = 1 << 30


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:  33554432 kB\nMemFree:  1024 kB\nMemAvailable:   8388608 kB\n")
    return file


def test_host_memory_is_what_is_available_or_what_the_container_leaves(meminfo: Path, tmp_path: Path) -> None:
    assert free_host_bytes(meminfo=meminfo, cgroup=tmp_path) == 8 * GB
    (tmp_path / "memory.max").write_text("max\n")
    assert free_host_bytes(meminfo=meminfo, cgroup=tmp_path) == 8 * GB
    (tmp_path / "memory.max").write_text(f"{4 * GB}\n")
    (tmp_path / "memory.current").write_text(f"{3 * GB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {GB}\n")
    assert free_host_bytes(meminfo=meminfo, cgroup=tmp_path) == 2 * GB


def test_unreadable_host_memory_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 5 kB\n")
    assert free_host_bytes(meminfo=tmp_path / "meminfo") is None
    assert free_host_bytes(meminfo=tmp_path / "none") is None


class NvmlError(Exception):
    pass


class Nvml:
    """NVML's functions for GPUs given as (name, uuid, free GB); None is what the driver does not tell."""

    NVMLError = NvmlError

    def __init__(self, *gpus: tuple[str, str, int | None]) -> None:
        self.gpus = gpus

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> Any:
        for gpu in self.gpus:
            if gpu[1] == uuid.decode():
                return gpu
        raise NvmlError("not found")

    def nvmlDeviceGetName(self, handle: Any) -> str:
        return str(handle[0])

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        if handle[2] is None:
            raise NvmlError("not supported")
        return SimpleNamespace(free=handle[2] * GB)


TWO = (("H200", "GPU-a", 10), ("H200", "GPU-b", 20))
MIXED = (("A10", "GPU-a", 10), ("H200", "GPU-b", 20))


@pytest.mark.parametrize(
    ("gpus", "device", "environ", "free_gb"),
    [
        (TWO, "cuda", {}, 10),
        (TWO, "cuda:1", {}, 20),
        (TWO, "cuda:2", {}, None),
        (TWO, "GPU-b", {}, 20),
        (TWO, "GPU-z", {}, None),
        (TWO, "cuda:0", {"CUDA_VISIBLE_DEVICES": "1"}, 20),
        (TWO, "cuda:0", {"CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a"}, 20),
        (TWO, "cuda:1", {"CUDA_VISIBLE_DEVICES": "1"}, None),
        (MIXED, "cuda:1", {}, 10),  # CUDA may count the other way round: the fuller one counts
        (MIXED, "cuda:1", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, 20),
        ((("H200", "GPU-a", None),), "cuda", {}, None),
        ((), "cuda", {}, None),
    ],
)
def test_a_gpus_free_memory_is_told_only_where_it_is_certain_whose_it_is(
    monkeypatch: pytest.MonkeyPatch, gpus: Any, device: str, environ: dict[str, str], free_gb: int | None
) -> None:
    for name in (devices.VISIBLE, devices.ORDER):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(*gpus))  # type: ignore[arg-type]
    assert free_device_bytes(device) == (None if free_gb is None else free_gb * GB)


def test_without_a_driver_a_gpus_memory_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert free_device_bytes("cuda") is None


def test_a_question_that_fails_costs_one_look_and_not_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_watch, "WITHOUT_S", 0.0)
    asked: list[int] = []

    def ask() -> Hardware:
        asked.append(1)
        if len(asked) == 1:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a name that is none")
        watch.stop()
        return Hardware("580")

    watch = DeviceWatch(ask=ask)
    watch.run()
    assert watch.latest() == Hardware("580")
