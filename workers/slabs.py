"""Shared memory between slot and engine: memfd slabs with an input and an output region, and where tensors lie in them.

Anonymous descriptors, so that kill -9 leaks nothing and Docker's 64 MB /dev/shm does not matter. Touched when made, so
that their pages stand in the memory baseline. Nothing here knows jobs or models.

    +----------------------------- input region ------+------------- output region ------------+
    | tensor 0, 64-aligned | tensor 1 | ...           | tensor 0 | tensor 1 | ...             |
    +-------------------------------------------------+----------------------------------------+
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from math import prod

import msgspec
import numpy as np
from numpy.typing import NDArray

from broker.codec import ITEM_BYTES

ALIGN = 64


class Place(msgspec.Struct, frozen=True):
    """Where one tensor lies: name, dtype, full shape with the row axis, offset in its region, bytes per row."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    row_bytes: int


def layout(columns: Iterable[tuple[str, str, tuple[int, ...]]], rows: int) -> tuple[tuple[Place, ...], int]:
    """Places of `rows` rows of (name, dtype, per-row shape) tensors, and the bytes they take together."""
    places = []
    at = 0
    for name, dtype, shape in columns:
        row_bytes = ITEM_BYTES[dtype] * prod(shape)
        places.append(Place(name, dtype, (rows, *shape), at, row_bytes))
        at += -(-rows * row_bytes // ALIGN) * ALIGN
    return tuple(places), at


class Slab:
    """One mapping. `fd` may be passed to a child, which opens the same pages with `Slab(..., fd=fd)`."""

    def __init__(self, *, input_bytes: int, output_bytes: int, fd: int | None = None) -> None:
        self.input_bytes = -(-max(input_bytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        self.output_bytes = -(-max(output_bytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        size = self.input_bytes + self.output_bytes
        is_owner = fd is None
        self.fd = os.memfd_create("penstock-slab") if fd is None else fd
        if is_owner:
            os.ftruncate(self.fd, size)
        self._map = mmap.mmap(self.fd, size)
        self.whole = memoryview(self._map)  # begins at a page, ends at one
        self.input = self.whole[: self.input_bytes]
        self.output = self.whole[self.input_bytes :]
        if is_owner:
            np.frombuffer(self._map, dtype=np.uint8).fill(0)

    def close(self) -> None:
        """Gives the descriptor back; the pages stay until the last view of them is gone."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def inputs(self, places: Iterable[Place]) -> dict[str, NDArray[np.generic]]:
        """Views of tensors in the input region."""
        return {place.name: _view(self.input, place) for place in places}

    def outputs(self, places: Iterable[Place]) -> dict[str, NDArray[np.generic]]:
        """Views of tensors in the output region."""
        return {place.name: _view(self.output, place) for place in places}


def _view(region: memoryview, place: Place) -> NDArray[np.generic]:
    count = prod(place.shape)
    return np.frombuffer(region, dtype=place.dtype, count=count, offset=place.offset).reshape(place.shape)
