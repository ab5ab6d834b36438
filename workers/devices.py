"""Which device a model runs on, and whether it really is there. The one place of `is_available` and of NVML here.

torch, onnxruntime and pynvml are imported inside the functions: the slot reads names with `parse` and loads none of them.
A GPU named by uuid is chosen through CUDA_VISIBLE_DEVICES of this process, so it must be asked for before anything uses CUDA.
"""

from __future__ import annotations

import ctypes
import os
import re
from typing import Any, Literal

import msgspec

from broker.errors import DeviceError

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
# Grow by what is asked, not by doubling; pick convolutions without a search per shape (gpu-and-monitoring.md §2).
CUDA_OPTIONS = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}
VISIBLE = "CUDA_VISIBLE_DEVICES"
_CUDA = re.compile(r"cuda(?::(\d{1,3}))?")
_UUID = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z/-]{4,80}")


class Device(msgspec.Struct, frozen=True):
    """A configured device. `uuid` is empty where it was named by number."""

    kind: Literal["cpu", "cuda"]
    index: int = 0
    uuid: str = ""

    @property
    def name(self) -> str:
        """As torch writes it: `cpu`, `cuda:0`."""
        return "cpu" if self.kind == "cpu" else f"cuda:{self.index}"


class Gpu(msgspec.Struct, frozen=True):
    """A GPU as the driver tells of it; None is what it would not tell."""

    uuid: str
    name: str
    total_bytes: int | None
    free_bytes: int | None


def parse(text: str) -> Device:
    """`cpu`, `cuda`, `cuda:N`, `GPU-<uuid>` or `MIG-<uuid>`. Raises DeviceError for anything else; asks no driver."""
    if text == "cpu":
        return Device("cpu")
    if match := _CUDA.fullmatch(text):
        return Device("cuda", int(match[1] or 0))
    if _UUID.fullmatch(text):
        return Device("cuda", uuid=text)
    raise DeviceError(f'device = "{text}" is no device; write "cpu", "cuda", "cuda:0" or "GPU-<uuid>" in pool.toml')


def for_torch(text: str, *, memory_fraction: float = 0.0) -> str:
    """The device string for torch, whose allocator keeps to `memory_fraction` of the device if that is above 0.

    Raises DeviceError when CUDA was asked for and torch cannot give it.
    """
    device = parse(text)
    if device.kind == "cpu":
        return device.name
    _show_only(device)
    import torch

    if torch.version.cuda is None:
        raise _missing(text, f"this torch ({torch.__version__}) is built without CUDA; install a CUDA build")
    if not torch.cuda.is_available():
        raise _missing(text, f"torch finds no usable GPU or driver ({VISIBLE}={os.environ.get(VISIBLE, 'unset')})")
    _check_index(text, device, torch.cuda.device_count())
    if memory_fraction > 0:
        torch.cuda.set_per_process_memory_fraction(memory_fraction, device.index)
    return device.name


def for_onnx(text: str, *, memory_fraction: float = 0.0) -> tuple[str, list[Any]]:
    """(device name, providers) for an ONNX Runtime session. Raises DeviceError when CUDA was asked for and no GPU is there.

    Its arena keeps to `memory_fraction` of the device if that is above 0.

    ONNX Runtime's own list of providers says what the wheel was built with, not what works: the driver is asked here, and
    `confirm_onnx` looks at the session that came out.
    """
    device = parse(text)
    if device.kind == "cpu":
        return device.name, [CPU_PROVIDER]
    _show_only(device)
    count = _driver_devices()
    if count is None:
        raise _missing(text, "no NVIDIA driver answers (libcuda.so.1)")
    _check_index(text, device, count)
    import onnxruntime

    onnxruntime.preload_dlls()  # finds CUDA and cuDNN in site-packages
    options = CUDA_OPTIONS | {"device_id": str(device.index)}
    if memory_fraction > 0:
        options["gpu_mem_limit"] = str(int(memory_fraction * _total_bytes(text, device)))
    return device.name, [(CUDA_PROVIDER, options)]


def confirm_onnx(text: str, providers: list[str]) -> None:
    """`providers` is `session.get_providers()`. Raises DeviceError when the session silently fell back to the CPU."""
    if parse(text).kind == "cuda" and providers[:1] != [CUDA_PROVIDER]:
        got = providers[0] if providers else "nothing"
        raise _missing(
            text, f"ONNX Runtime fell back to {got}; its log above names the library missing (CUDA 13, cuDNN 9)"
        )


def check_device(text: str) -> str:
    """What stands behind a configured device, for the doctor; makes no CUDA context. Raises DeviceError when nothing does."""
    device = parse(text)
    if device.kind == "cpu":
        return f"{os.cpu_count()} cores"
    if device.uuid.startswith("MIG-"):
        return "a MIG instance; looked for when the slot starts"
    if device.uuid:
        for gpu in gpus():
            if gpu.uuid.startswith(device.uuid):
                return _described(gpu)
        listed = ", ".join(gpu.uuid for gpu in gpus()) or "none"
        raise _missing(text, f"the driver lists no such GPU (it lists {listed})")
    count = _driver_devices()
    if count is None:
        raise _missing(text, "no NVIDIA driver answers (libcuda.so.1)")
    _check_index(text, device, count)
    return (
        f"number {device.index} of {count}; the host has {', '.join(map(_described, gpus())) or 'no NVML to say more'}"
    )


def gpus() -> list[Gpu]:
    """The host's GPUs as NVML lists them, whatever CUDA_VISIBLE_DEVICES says; empty without driver or pynvml."""
    nvml = _nvml()
    if nvml is None:
        return []
    found = []
    for index in range(_asked(nvml, nvml.nvmlDeviceGetCount) or 0):
        handle = _asked(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            continue
        memory = _asked(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
        found.append(
            Gpu(
                uuid=_text(_asked(nvml, nvml.nvmlDeviceGetUUID, handle)),
                name=_text(_asked(nvml, nvml.nvmlDeviceGetName, handle)),
                total_bytes=memory and int(memory.total),
                free_bytes=memory and int(memory.free),
            )
        )
    return found


def own_bytes(pid: int) -> int | None:
    """Device memory of one process over all GPUs, as NVML tells it; None where it does not tell.

    In containers NVML may list other pids, none, or zero bytes: only a positive figure under our own pid counts.
    """
    nvml = _nvml()
    if nvml is None:
        return None
    total = 0
    for index in range(_asked(nvml, nvml.nvmlDeviceGetCount) or 0):
        handle = _asked(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            continue
        for process in _asked(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ():
            if process.pid == pid and process.usedGpuMemory:
                total += int(process.usedGpuMemory)
    return total or None


# --- asking the driver ----------------------------------------------------------------------


def _show_only(device: Device) -> None:
    if device.uuid:
        os.environ[VISIBLE] = device.uuid  # read when CUDA is first used; the GPU is number 0 from then on


def _driver_devices() -> int | None:
    """GPUs the CUDA driver shows this process, or None without a driver. Makes no context."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return None
    return count.value


def _total_bytes(text: str, device: Device) -> int:
    """The device's memory, asked of the driver. Makes no context; after `_driver_devices`."""
    driver = ctypes.CDLL("libcuda.so.1")
    handle, total = ctypes.c_int(), ctypes.c_size_t()
    if driver.cuDeviceGet(ctypes.byref(handle), device.index) or driver.cuDeviceTotalMem_v2(
        ctypes.byref(total), handle
    ):
        raise _missing(
            text, "the driver does not tell how much memory it has, so memory_fraction cannot be kept; set it to 0"
        )
    return total.value


def _check_index(text: str, device: Device, count: int) -> None:
    if device.index >= count:
        raise _missing(text, f"{count} GPUs are visible here ({VISIBLE}={os.environ.get(VISIBLE, 'unset')})")


def _described(gpu: Gpu) -> str:
    sizes = [size if size is None else size >> 20 for size in (gpu.free_bytes, gpu.total_bytes)]
    return f"{gpu.name} {gpu.uuid}" + (f", {sizes[0]} of {sizes[1]} MB free" if None not in sizes else "")


def _missing(text: str, why: str) -> DeviceError:
    return DeviceError(f'device = "{text}" was asked for, but {why}; mend it, or set device = "cpu" in pool.toml')


def _nvml() -> Any:
    """pynvml, initialised, or None where it or the driver is missing."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()  # counted by NVML; cheap when done before
    except pynvml.NVMLError:
        return None
    return pynvml


def _asked(nvml: Any, question: Any, *args: Any) -> Any:
    """The answer, or None for whatever this driver, device or container does not tell."""
    try:
        return question(*args)
    except nvml.NVMLError:
        return None


def _text(value: str | bytes | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""
