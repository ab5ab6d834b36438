"""An array as the manifest holds it: a golden probe's, or a constant of a graph."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray


class Values(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An array in the manifest: raw little-endian bytes, base64 in JSON."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def array(self) -> NDArray[np.generic]:
        """The array, read-only."""
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)

    @staticmethod
    def of(array: NDArray[Any]) -> Values:
        return Values(str(array.dtype), array.shape, np.ascontiguousarray(array).tobytes())
