"""Raw input: the artifact's preprocess makes tensors of bytes or text, an item at a time. Lives in the engine.

An item it refuses fails alone; what it made is held against the manifest, for it is the artifact's own code.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np

from broker.spec import ModelSpec
from workers.backends import Arrays
from workers.bounds import broken_rows
from workers.columns import input_columns
from workers.exchange import Note
from workers.failures import POLICIES, Action, Kind, classify

NOTE_CHARACTERS = 300
NOTES_CHARACTERS = 40_000  # of all rows together: they travel in one packet, at worst 4 bytes a character

Preprocess = Callable[[list[Any]], list[dict[str, Any] | Exception]]


class RawInput:
    """One model's raw input."""

    def __init__(self, spec: ModelSpec, preprocess: Preprocess) -> None:
        self._spec = spec
        self._preprocess = preprocess

    def tensors(self, lengths: list[int], region: memoryview, bucket: int, notes: list[Note]) -> Arrays:
        """Padded to `bucket` rows; `region` holds the items side by side. Whom preprocess refused stands in `notes`."""
        items: list[Any] = []
        at = 0
        for length in lengths:
            raw = bytes(region[at : at + length])
            items.append(raw.decode() if self._spec.takes == "text" else raw)
            at += length
        made = self._preprocess(items)
        if len(made) != len(items):
            raise ValueError(f"preprocess gave {len(made)} results for {len(items)} items")
        good: list[tuple[int, Arrays]] = []
        for row, one in enumerate(made):
            try:
                good.append((row, self._checked(one)))
            except Exception as error:  # one item's trouble, whatever preprocess made of it, is that item's
                kind = classify(error).kind
                if POLICIES[kind].action in (Action.HALVE, Action.GIVE_BACK):
                    raise  # but not the device's
                kind = kind if kind is Kind.TRANSIENT else Kind.INPUT_ERROR
                text = f"{type(error).__name__}: {error}"
                most = max(20, min(NOTE_CHARACTERS, NOTES_CHARACTERS // len(items)))
                notes.append(Note(row, True, POLICIES[kind].reason, text[:most]))
        columns = input_columns(self._spec, self._dims_of([one for _, one in good]))
        arrays: Arrays = {}
        for (name, dtype, shape), tensor in zip(columns, self._spec.inputs, strict=True):
            array: np.ndarray[Any, Any] = np.full((bucket, *shape), tensor.pad_value, dtype=dtype)
            for row, one in good:
                value = one[name]
                array[row][tuple(slice(size) for size in value.shape)] = value
            arrays[name] = array
        return arrays

    def _checked(self, one: dict[str, Any] | Exception) -> Arrays:
        """What preprocess made of one item, as the manifest's inputs. Raises the item's own error, or what does not fit."""
        if isinstance(one, Exception):
            raise one
        arrays: Arrays = {}
        for tensor in self._spec.inputs:
            if tensor.name not in one:
                raise KeyError(f"preprocess gave no {tensor.name!r}, only {', '.join(map(repr, one)) or 'nothing'}")
            value = np.asarray(one[tensor.name])
            fits = value.ndim == len(tensor.shape) and all(
                isinstance(want, str) or want == size for want, size in zip(tensor.shape, value.shape, strict=True)
            )
            if not fits or not np.can_cast(value.dtype, tensor.dtype, "same_kind"):
                came = f"{value.dtype} {list(value.shape)}"
                raise ValueError(
                    f"preprocess gave {tensor.name!r} as {came}, the manifest says {tensor.dtype} {list(tensor.shape)}"
                )
            for dim, size in zip(tensor.shape, value.shape, strict=True):
                if isinstance(dim, str) and size > self._spec.buckets[dim][-1]:
                    raise ValueError(
                        f"dimension {dim!r} became {size}, the largest bucket is {self._spec.buckets[dim][-1]}"
                    )
            is_strict = tensor.is_bounded and tensor.on_violation == "refuse"
            if is_strict and (broken := broken_rows(tensor, value.reshape(1, -1))):
                raise ValueError(f"preprocess gave a value the manifest forbids: {broken[0][1]}")
            arrays[tensor.name] = value
        return arrays

    def _dims_of(self, rows: list[Arrays]) -> tuple[int, ...]:
        """The shape bucket that holds all rows."""
        sizes: dict[str, int] = {}
        for tensor in self._spec.inputs:
            for axis, dim in enumerate(tensor.shape):
                if isinstance(dim, str):
                    sizes[dim] = max([sizes.get(dim, 1), *(row[tensor.name].shape[axis] for row in rows)])
        buckets = self._spec.buckets
        return tuple(buckets[name][bisect_left(buckets[name], sizes[name])] for name in sorted(sizes))
