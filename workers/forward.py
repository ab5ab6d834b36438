"""Runs one message of the exchange against a backend and the slabs. Lives in the engine; knows nothing of Redis or jobs.

Tensors: views of the slab go straight into the backend. Raw input: the artifact's pipeline makes tensors of it first, and
an item it refuses fails alone. Outputs are checked against their bounds and written to the slab, as tensors or, after
`postprocess`, as one msgpack value per row.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from broker.codec import ITEM_BYTES
from broker.errors import ArtifactError
from broker.spec import ModelSpec, TensorSpec
from workers.backends import Arrays, Backend
from workers.exchange import Note, Ran, Run
from workers.failures import POLICIES, Action, Finding, Kind, classify, describe
from workers.slabs import Slab, layout

Columns = tuple[tuple[str, str, tuple[int, ...]], ...]
NOTE_CHARACTERS = 300
NOTES_CHARACTERS = 40_000  # of all rows together: they travel in one packet, at worst 4 bytes a character


class Pipeline(Protocol):
    """The artifact's own Python: both functions are optional."""

    preprocess: Callable[[list[Any]], list[dict[str, Any] | Exception]] | None
    postprocess: Callable[[Arrays, int], list[Any]] | None


def input_columns(spec: ModelSpec, dims: Sequence[int]) -> Columns:
    """(name, dtype, per-row shape) of the inputs, padded to `dims` (sizes of the varying dimensions, by name order)."""
    varying = sorted({dim for tensor in spec.inputs for dim in tensor.shape if isinstance(dim, str)})
    sizes = dict(zip(varying, dims, strict=True))
    return tuple(
        (tensor.name, tensor.dtype, tuple(sizes[dim] if isinstance(dim, str) else dim for dim in tensor.shape))
        for tensor in spec.inputs
    )


class Forward:
    """A backend with its slabs. `run` never raises for what a model or its pipeline does."""

    def __init__(
        self,
        spec: ModelSpec,
        backend: Backend,
        slabs: Sequence[Slab],
        pipeline: Pipeline | None,
        *,
        stamp: Callable[[], None] = lambda: None,
    ) -> None:
        """`stamp` is called at the end of each phase, for the slot that watches."""
        self.backend = backend
        self.stamp = stamp
        self._spec = spec
        self._slabs = slabs
        self._preprocess = getattr(pipeline, "preprocess", None)
        self._postprocess = getattr(pipeline, "postprocess", None)
        self._bounded = [tensor for tensor in spec.outputs if tensor.is_bounded]
        self._views: dict[tuple[int, int, tuple[int, ...]], Arrays] = {}
        self._out_views: dict[tuple[int, int, Columns], tuple[Arrays, int]] = {}

    def run(self, message: Run) -> Ran:
        """One forward; what went wrong stands in the answer. After `device_fault` the process must end."""
        began = time.perf_counter()
        notes: list[Note] = []
        try:
            return self._try(message, began, notes)
        except Exception as error:  # noqa: BLE001 - the process edge: what a model raises must reach its jobs
            finding = classify(error)
            text = describe(error, finding)[:2000]
        # Past the except block, since the traceback kept the failed batch's tensors alive.
        kind = finding.kind if self._is_sound(finding) else Kind.DEVICE_FAULT
        if kind is Kind.OUT_OF_MEMORY and message.rows == 1 and not self._has_room(message):
            kind = Kind.DEVICE_FULL
        return Ran(
            message.seq, (time.perf_counter() - began) * 1e3, notes=notes, error=text, reason=POLICIES[kind].reason
        )

    def _try(self, message: Run, began: float, notes: list[Note]) -> Ran:
        if message.lengths is None:
            key = (message.slab, message.bucket, message.dims)
            inputs = self._views.get(key)
            if inputs is None:
                places, _ = layout(input_columns(self._spec, message.dims), message.bucket)
                inputs = self._views[key] = self._slabs[message.slab].inputs(places)
        else:
            inputs = self._make_tensors(message, notes)
            self.stamp()
        outputs = self.backend.run(inputs)
        self.stamp()
        forward_ms = (time.perf_counter() - began) * 1e3
        if self._bounded:
            self._check_bounds(outputs, message.rows, notes)
        if self._postprocess is not None:
            return self._write_values(message, self._postprocess(outputs, message.rows), forward_ms, notes)
        return self._write_tensors(message, outputs, forward_ms, notes)

    def _is_sound(self, finding: Finding) -> bool:
        """Whether the device can go on: frees what there is to free, and asks it where the error leaves that open."""
        try:
            if finding.kind is Kind.OUT_OF_MEMORY:
                self.backend.free()
            elif not finding.needs_probe:
                return True
            return self.backend.probe()
        except Exception:  # noqa: BLE001 - a device that cannot even be asked is not one to serve with
            return False

    def _has_room(self, message: Run) -> bool:
        """Whether an empty batch of that size still fits, as it did in the warm-up: then the row itself asks for too much."""
        buckets = self._spec.buckets
        dims = message.dims if message.lengths is None else [buckets[name][0] for name in sorted(buckets)]
        columns = input_columns(self._spec, dims)
        try:
            self.backend.run({name: np.zeros((message.bucket, *shape), dtype) for name, dtype, shape in columns})
        except Exception as error:  # noqa: BLE001 - whatever else it is, the job's own error was told already
            is_full = classify(error).kind is Kind.OUT_OF_MEMORY
        else:
            return True
        self.backend.free()
        return not is_full

    # --- raw input --------------------------------------------------------------------------

    def _make_tensors(self, message: Run, notes: list[Note]) -> Arrays:
        assert message.lengths is not None
        assert self._preprocess is not None
        region = self._slabs[message.slab].input
        items: list[Any] = []
        at = 0
        for length in message.lengths:
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
            array: np.ndarray[Any, Any] = np.full((message.bucket, *shape), tensor.pad_value, dtype=dtype)
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

    # --- outputs ----------------------------------------------------------------------------

    def _check_bounds(self, outputs: Arrays, rows: int, notes: list[Note]) -> None:
        for tensor in self._bounded:
            for row, text in broken_rows(tensor, outputs[tensor.name][:rows]):
                notes.append(Note(row, tensor.on_violation == "refuse", "output_out_of_bounds", text))

    def _write_tensors(self, message: Run, outputs: Arrays, forward_ms: float, notes: list[Note]) -> Ran:
        columns = tuple((name, str(array.dtype), array.shape[1:]) for name, array in outputs.items())
        key = (message.slab, message.bucket, columns)
        known = self._out_views.get(key)
        slab = self._slabs[message.slab]
        if known is None:
            unknown = [dtype for _, dtype, _ in columns if dtype not in ITEM_BYTES]
            if unknown:
                raise TypeError(f"the model gives {unknown[0]}, which results cannot carry; cast it in the model")
            places, size = layout(columns, message.bucket)
            if size > slab.output_bytes:
                raise ArtifactError(
                    f"outputs take {size} bytes, {slab.output_bytes} were foreseen by the manifest's shapes"
                )
            known = self._out_views[key] = (slab.outputs(places), size)
        views, _ = known
        rows = message.rows
        for name, array in outputs.items():
            views[name][:rows] = array[:rows]
        return Ran(message.seq, forward_ms, columns=columns, notes=notes)

    def _write_values(self, message: Run, values: list[Any], forward_ms: float, notes: list[Note]) -> Ran:
        if len(values) < message.rows:
            raise ValueError(f"postprocess gave {len(values)} values for {message.rows} rows")
        region = self._slabs[message.slab].output
        lengths, at = [], 0
        for row, value in enumerate(values[: message.rows]):
            raw = msgspec.msgpack.encode(value)
            if at + len(raw) > len(region):
                notes.append(Note(row, True, "output_too_large", f"the value takes {len(raw)} bytes, no room is left"))
                raw = b""
            region[at : at + len(raw)] = raw
            lengths.append(len(raw))
            at += len(raw)
        return Ran(message.seq, forward_ms, value_lengths=lengths, notes=notes)


def broken_rows(tensor: TensorSpec, array: np.ndarray[Any, Any]) -> list[tuple[int, str]]:
    """Rows of `array` [rows, ...] that break the tensor's bounds, each with what is wrong."""
    flat = array.reshape(array.shape[0], -1)
    found: dict[int, str] = {}
    if tensor.finite and flat.dtype.kind == "f":
        for row in np.flatnonzero(~np.isfinite(flat).all(axis=1)):
            found[int(row)] = f"{tensor.name} holds NaN or infinity"
    for bound, is_broken in ((tensor.minimum, np.less), (tensor.maximum, np.greater)):
        if bound is not None:
            for row in np.flatnonzero(is_broken(flat, bound).any(axis=1)):
                found.setdefault(int(row), f"{tensor.name} lies outside {tensor.minimum}..{tensor.maximum}")
    return sorted(found.items())


def slab_bytes(spec: ModelSpec, max_rows: int, *, raw_bytes: int) -> tuple[int, int]:
    """Bytes of the input and output regions that hold the largest batch. Varying dimensions count at their largest."""
    largest = {name: buckets[-1] for name, buckets in spec.buckets.items()}
    dims = [largest[name] for name in sorted({d for t in spec.inputs for d in t.shape if isinstance(d, str)})]
    _, input_bytes = layout(input_columns(spec, dims), max_rows)
    if spec.takes != "tensors":
        input_bytes = raw_bytes
    outputs = [
        (tensor.name, tensor.dtype, tuple(largest[dim] if isinstance(dim, str) else dim for dim in tensor.shape))
        for tensor in spec.outputs
    ]
    _, output_bytes = layout(outputs, max_rows)
    if spec.has_postprocess:
        output_bytes = max(output_bytes, max_rows * 4096)
    return input_bytes, output_bytes
