"""This host's GPUs, and how much memory is free on them and on the host, measured now. What nobody tells is None, never 0 and
never plenty.

No CUDA context is made: NVML and /proc are asked. Where a GPU's number cannot be told for certain the fullest one counts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from broker.errors import ConfigError
from operators.hardware import Gpu, Hardware

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
CGROUP = Path("/sys/fs/cgroup")


def free_host_bytes(*, meminfo: Path = Path("/proc/meminfo"), cgroup: Path = CGROUP) -> int | None:
    """What programs may still take: MemAvailable, or what the container's limit leaves if that is less."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None
    left = _left_in_cgroup(cgroup)
    return free if left is None else min(free, left)


def free_device_bytes(device: str) -> int | None:
    """Free memory of a GPU named as in pool.toml: `cuda`, `cuda:1`, `GPU-<uuid>`. None without NVML or such a GPU."""
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        free = [_free(nvml, handle) for handle in _handles(nvml, device)]
    except (nvml.NVMLError, ValueError):
        return None
    known = [one for one in free if one is not None]
    return min(known) if known and len(known) == len(free) else None


def hardware() -> Hardware | None:
    """Every GPU of the host, whatever CUDA_VISIBLE_DEVICES says, and its MIG instances behind it. None without NVML.

    One that is lost stands in the list with its trouble. It may take seconds where a GPU is failing.
    """
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError:
        return None
    found: list[Gpu] = []
    for index in range(count):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError as error:
            found.append(Gpu(None, index=index, trouble=_said(error)))
            continue
        found += _gpus(nvml, handle, index)
    return Hardware(_text(_asked(nvml, nvml.nvmlSystemGetDriverVersion)), tuple(found))


def visible(listed: Hardware) -> tuple[Gpu, ...]:
    """The usable GPUs that CUDA_VISIBLE_DEVICES leaves to this pool; without it all of them.

    Raises ConfigError where it names them by numbers that CUDA may count otherwise than the driver does.
    """
    text = os.environ.get(VISIBLE)
    if text is None:
        return listed.usable
    shown: list[Gpu] = []
    for name in (part.strip() for part in text.split(",")):
        if name.startswith(("GPU-", "MIG-")):
            shown += [gpu for gpu in listed.usable if (gpu.uuid or "").startswith(name)][:1]
        elif name.isdigit():
            kinds = {gpu.name for gpu in listed.gpus if not gpu.parent}
            if len(kinds) > 1 and os.environ.get(ORDER) != "PCI_BUS_ID":
                raise ConfigError(
                    f"{VISIBLE}={text} numbers GPUs of several kinds, which CUDA counts in an order of its own; "
                    f"name them by UUID (`nvidia-smi -L`), or set {ORDER}=PCI_BUS_ID"
                )
            shown += [gpu for gpu in listed.usable if gpu.index == int(name)]
        else:
            break  # CUDA ignores what follows a name it does not know, -1 among them
    return tuple(dict.fromkeys(shown))


def _gpus(nvml: Any, handle: Any, index: int) -> list[Gpu]:
    """The GPU and its MIG instances."""
    gpu = _gpu(nvml, handle, index)
    mode = _asked(nvml, nvml.nvmlDeviceGetMigMode, handle)
    if not mode or not mode[0]:
        return [gpu]
    found = [msgspec.structs.replace(gpu, is_split=True)]
    for place in range(_asked(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        instance = _asked(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place)
        if instance is not None:
            found.append(_gpu(nvml, instance, index, parent=gpu.uuid or ""))
    return found


def _gpu(nvml: Any, handle: Any, index: int, parent: str = "") -> Gpu:
    trouble, uuid, memory = "", None, None
    try:
        uuid = _text(nvml.nvmlDeviceGetUUID(handle))
    except nvml.NVMLError as error:
        trouble = _said(error)
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as error:
        if error.value not in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_NO_PERMISSION):
            trouble = _said(error)
    return Gpu(
        uuid=uuid,
        name=_text(_asked(nvml, nvml.nvmlDeviceGetName, handle)),
        # A driver that tells of no memory at all tells nothing: MIG's parents in containers, integrated GPUs.
        total_bytes=int(memory.total) if memory is not None and memory.total else None,
        free_bytes=int(memory.free) if memory is not None and memory.total else None,
        trouble=trouble,
        parent=parent,
        index=index,
    )


def _handles(nvml: Any, device: str) -> list[Any]:
    """The GPU meant; all of them where CUDA's numbering and NVML's may differ."""
    if device.startswith(("GPU-", "MIG-")):
        return [nvml.nvmlDeviceGetHandleByUUID(device.encode())]
    number = int(device.partition(":")[2] or 0)
    shown = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    if shown:
        name = shown[number] if number < len(shown) else ""
        if name.startswith(("GPU-", "MIG-")):
            return [nvml.nvmlDeviceGetHandleByUUID(name.encode())]
        number = int(name)
    all_of_them = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    if number >= len(all_of_them):
        return []
    # CUDA counts the fastest first unless told otherwise, NVML by bus: the same only among GPUs of one kind.
    names = {nvml.nvmlDeviceGetName(handle) for handle in all_of_them}
    is_certain = len(names) == 1 or os.environ.get(ORDER) == "PCI_BUS_ID"
    return [all_of_them[number]] if is_certain else all_of_them


def _free(nvml: Any, handle: Any) -> int | None:
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).free)
    except nvml.NVMLError:
        return None


def _asked(nvml: Any, question: Any, *args: Any) -> Any:
    """The answer, or None for whatever this driver, device or container does not tell."""
    try:
        return question(*args)
    except nvml.NVMLError:
        return None


def _text(value: str | bytes | None) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


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


def _left_in_cgroup(folder: Path) -> int | None:
    """What the memory limit of this container leaves, its reclaimable cache included; None without a limit."""
    for limit_name, used_name, stat_name, cache_name in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        try:
            limit, used = int((folder / limit_name).read_text()), int((folder / used_name).read_text())
            stat = dict(line.split() for line in (folder / stat_name).read_text().splitlines())
        except (OSError, ValueError):
            continue
        return max(0, limit - used + int(stat.get(cache_name, 0)))
    return None
