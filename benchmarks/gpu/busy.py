"""What NVML and the driver tell of the device while something runs; None on the CPU and where they do not tell."""

from __future__ import annotations

import threading
from statistics import mean
from typing import Any

LOOK_S = 0.05


class Busy:
    """The share of time in which some kernel ran, over the block. NVML's own windows are 1/6 to 1 s: take blocks of seconds."""

    def __init__(self, device: str) -> None:
        self.share: float | None = None
        self._looks: list[float] = []
        self._handle, self._nvml = _handle(device)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="busy", daemon=True)

    def __enter__(self) -> Busy:
        if self._nvml is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self._nvml is not None:
            self._thread.join(5)
            self.share = mean(self._looks) / 100 if self._looks else None

    def _look(self) -> None:
        while not self._is_over.wait(LOOK_S):
            try:
                self._looks.append(float(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu))
            except self._nvml.NVMLError:
                return


def free_bytes(device: str) -> int | None:
    """Free memory of the device, by the driver; makes a context in this process, which stays the same over all looks."""
    if device == "cpu":
        return None
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return int(free)


def _handle(device: str) -> tuple[Any, Any]:
    if device == "cpu":
        return None, None
    try:
        import pynvml
        import torch

        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"  # NVML ignores CUDA_VISIBLE_DEVICES
        return pynvml.nvmlDeviceGetHandleByUUID(uuid), pynvml
    except (ImportError, AttributeError, RuntimeError, pynvml.NVMLError):
        return None, None
