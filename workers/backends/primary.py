"""The primary context of one CUDA device, asked through the driver (libcuda) alone.

The runtime API, and so torch and ONNX Runtime, work in that very context. The driver's own calls leave no "last error" behind
in the runtime, which torch would find at its next launch and take for the model's.
"""

from __future__ import annotations

import ctypes
from typing import Any

from broker.errors import DeviceError

Call = tuple[Any, ...]  # a function's name and its arguments


class Primary:
    """Holds the context, so that it is there between calls. Raises DeviceError when the driver refuses."""

    def __init__(self, index: int, driver: Any = None) -> None:
        """`driver` stands for libcuda in tests."""
        self._driver = driver if driver is not None else ctypes.CDLL("libcuda.so.1")
        self._index = index
        self._context = ctypes.c_void_p()
        device = ctypes.c_int()
        self._refuse(
            self._first_error(
                ("cuInit", 0),
                ("cuDeviceGet", ctypes.byref(device), index),
                ("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device),
            )
        )

    def ask(self, *calls: Call) -> tuple[str, int] | None:
        """Makes the calls in the context, up to the first that fails: its name and code, or None."""
        if error := self._first_error(("cuCtxPushCurrent_v2", self._context)):
            return error
        error = self._first_error(*calls)
        popped = self._first_error(("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p())))
        return error or popped

    def require(self, *calls: Call) -> None:
        """The same; raises DeviceError where one fails."""
        self._refuse(self.ask(*calls))

    def _first_error(self, *calls: Call) -> tuple[str, int] | None:
        for name, *args in calls:
            if code := int(getattr(self._driver, name)(*args)):
                return name, code
        return None

    def _refuse(self, error: tuple[str, int] | None) -> None:
        if error is not None:
            raise DeviceError(f"CUDA device {self._index}: {error[0]} failed with error {error[1]}; see `nvidia-smi`")
