"""How much memory is free on this host and on its GPUs, measured now. What nobody tells is None, never 0 and never plenty.

No CUDA context is made: NVML and /proc are asked. Where a GPU's number cannot be told for certain the fullest one counts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

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
