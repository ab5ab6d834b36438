"""Whether a CUDA context still works, asked of the driver: a memset on the device and a synchronize, in the primary context.

For runtimes that offer no kernel of their own to try. A sticky error in that context is the answer to every call from then on.
"""

from __future__ import annotations

import ctypes
from typing import Any

from workers.backends.primary import Call, Primary


class Pulse:
    """Four bytes on the device, taken while there is room for them."""

    def __init__(self, index: int, driver: Any = None) -> None:
        """Raises DeviceError when the driver refuses; `driver` stands for libcuda in tests."""
        self._primary = Primary(index, driver)
        self._place = ctypes.c_uint64()
        self._primary.require(("cuMemAlloc_v2", ctypes.byref(self._place), ctypes.c_size_t(4)))
        self._primary.require(*self._beat(0))

    def beats(self) -> bool:
        """Whether the context still takes and ends work."""
        return self._primary.ask(*self._beat(1)) is None

    def _beat(self, value: int) -> tuple[Call, ...]:
        memset = ("cuMemsetD32_v2", self._place, ctypes.c_uint(value), ctypes.c_size_t(1))
        return memset, ("cuCtxSynchronize",)
