"""Whether a CUDA context still works, asked of the driver: a memset on the device and a synchronize, in the primary context.

For runtimes that offer no kernel of their own to try. The runtime API, and so ONNX Runtime, works in the primary context; a
sticky error there is the answer to every call from then on.
"""

from __future__ import annotations

import ctypes
from typing import Any

from broker.errors import DeviceError


class Pulse:
    """Four bytes on the device, taken while there is room for them."""

    def __init__(self, index: int, driver: Any = None) -> None:
        """Raises DeviceError when the driver refuses; `driver` stands for libcuda in tests."""
        self._driver = driver if driver is not None else ctypes.CDLL("libcuda.so.1")
        self._context = ctypes.c_void_p()
        self._place = ctypes.c_uint64()
        device = ctypes.c_int()
        for call, *args in (
            ("cuInit", 0),
            ("cuDeviceGet", ctypes.byref(device), index),
            ("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device),
            ("cuCtxPushCurrent_v2", self._context),
            ("cuMemAlloc_v2", ctypes.byref(self._place), ctypes.c_size_t(4)),
            ("cuMemsetD32_v2", self._place, ctypes.c_uint(0), ctypes.c_size_t(1)),
            ("cuCtxSynchronize",),
            ("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p())),
        ):
            if code := self._call(call, *args):
                raise DeviceError(f"CUDA device {index}: {call} failed with error {code}; see `nvidia-smi`")

    def beats(self) -> bool:
        """Whether the context still takes and ends work."""
        if self._call("cuCtxPushCurrent_v2", self._context):
            return False
        codes = [
            self._call("cuMemsetD32_v2", self._place, ctypes.c_uint(1), ctypes.c_size_t(1)),
            self._call("cuCtxSynchronize"),
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p())),
        ]
        return not any(codes)

    def _call(self, name: str, *args: Any) -> int:
        return int(getattr(self._driver, name)(*args))
