"""One model input for all rows of a chunk, those that do not fit marked. Converts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray


class Rows(msgspec.Struct, frozen=True, eq=False):
    """`values`: (rows, ...) with anything in rows that have faults. Where the first dimension varies, `widths` holds each
    row's and `values` all rows one after another; `starts` says where each begins.
    """

    values: NDArray[Any]
    faults: Mapping[int, str]
    widths: NDArray[np.int64] | None = None
    starts: NDArray[np.int64] | None = None

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Those rows as one array; where dimensions vary they must be of one width."""
        if self.widths is None or self.starts is None:
            return self.values if len(rows) == len(self.values) else self.values[rows]
        width = int(self.widths[rows[0]])
        taken: NDArray[Any] = self.values[self.starts[rows][:, None] + np.arange(width)]
        return taken
