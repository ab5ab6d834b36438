"""Runs one message of the exchange against a backend and the slabs. Lives in the engine; knows nothing of Redis or jobs.

Tensors: views of the slab go straight into the backend. Raw input: the artifact's pipeline makes tensors of it first (`raw`).
Outputs are checked against their bounds and written to the slab, as tensors or, after
`postprocess`, as one msgpack value per row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import msgspec
import numpy as np

from broker.codec import ITEM_BYTES
from broker.errors import ArtifactError
from broker.spec import ModelSpec
from workers.backends import Arrays, Backend, OnDevice, Overlapping
from workers.bounds import broken_rows
from workers.columns import Columns, input_columns
from workers.device_batch import DeviceBatch
from workers.exchange import Note, Ran, Run
from workers.failures import POLICIES, Finding, Kind, classify, describe
from workers.raw import RawInput
from workers.slabs import Place, Slab, layout

_dtype_name = lru_cache(64)(str)  # numpy takes 2 us to spell one, for each batch


class Pipeline(Protocol):
    """The artifact's own Python: both functions are optional."""

    preprocess: Callable[[list[Any]], list[dict[str, Any] | Exception]] | None
    postprocess: Callable[[Arrays, int], list[Any]] | None


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
        preprocess = getattr(pipeline, "preprocess", None)
        self._raw = RawInput(spec, preprocess) if preprocess is not None else None
        self._postprocess = getattr(pipeline, "postprocess", None)
        self._bounded = [tensor for tensor in spec.outputs if tensor.is_bounded]
        self._views: dict[tuple[int, int, tuple[int, ...]], Arrays] = {}
        self._out_views: dict[tuple[int, int, Columns], tuple[Arrays, int]] = {}
        self._places: dict[tuple[int, tuple[int, ...]], tuple[tuple[Place, ...], int]] = {}
        self.on_device = backend if isinstance(backend, OnDevice) else None
        self.overlapping = backend if isinstance(backend, Overlapping) else None
        if self.on_device is not None:
            self.on_device.attach(slabs, has_postprocess=self._postprocess is not None)

    def run(self, message: Run) -> Ran:
        """One forward; what went wrong stands in the answer. After `device_fault` the process must end."""
        if self.overlapping is not None:
            device_batch = self.board(message)
            device_batch.prepare()
            device_batch.launch()
            device_batch.land()
            return device_batch.ran(is_alone=True)
        began = time.perf_counter()
        notes: list[Note] = []
        try:
            return self._try(message, began, notes)
        except Exception as error:  # noqa: BLE001 - the process edge: what a model raises must reach its jobs
            finding = classify(error)
            text = describe(error, finding)[:2000]
        # Past the except block, since the traceback kept the failed batch's tensors alive.
        return self.failed(message, finding, text, (time.perf_counter() - began) * 1e3, notes)

    def failed(
        self, message: Run, finding: Finding, text: str, ms: float, notes: list[Note], *, is_alone: bool = True
    ) -> Ran:
        """The answer to a batch that failed as a whole.

        While another forward computes (not `is_alone`), the device's word would be about that one: it is not asked. This one
        had landed by then, so what failed was on the host.
        """
        kind = finding.kind
        if is_alone:
            kind = kind if self._is_sound(finding) else Kind.DEVICE_FAULT
            if kind is Kind.OUT_OF_MEMORY and message.rows == 1 and not self._has_room(message):
                kind = Kind.DEVICE_FULL
        return Ran(message.seq, ms, notes=notes, error=text, reason=POLICIES[kind].reason)

    def board(self, message: Run) -> DeviceBatch:
        """A Run whose steps are called one by one; for a backend that overlaps."""
        assert self.overlapping is not None
        return DeviceBatch(self, self.overlapping, message)

    def _try(self, message: Run, began: float, notes: list[Note]) -> Ran:
        if message.lengths is None:
            key = (message.slab, message.bucket, message.dims)
            inputs = self._views.get(key)
            if inputs is None:
                places, _ = layout(input_columns(self._spec, message.dims), message.bucket)
                inputs = self._views[key] = self._slabs[message.slab].inputs(places)
        else:
            inputs = self.tensors(message, notes)
            self.stamp()
        outputs = self.backend.run(inputs) if message.forwards == 1 else self._chained(inputs, message)
        self.stamp()
        return self.answer(message, outputs, (time.perf_counter() - began) * 1e3, notes)

    def _chained(self, inputs: Arrays, message: Run) -> Arrays:
        """One forward after the other, each of whole rows; the outputs as of one. Copied at once: a model may give the same array
        each time."""
        rows = message.bucket // message.forwards
        made: Arrays = {}
        for start in range(0, message.bucket, rows):
            outputs = self.backend.run({name: array[start : start + rows] for name, array in inputs.items()})
            for name, array in outputs.items():
                if name not in made:
                    made[name] = np.empty((message.bucket, *array.shape[1:]), array.dtype)
                made[name][start : start + rows] = array
            self.stamp()
        return made

    def tensors(self, message: Run, notes: list[Note]) -> Arrays:
        """What the artifact's preprocess makes of raw input."""
        assert self._raw is not None, "raw input for a model that takes tensors"
        assert message.lengths is not None, "tensors for a model that takes raw input"
        return self._raw.tensors(message.lengths, self._slabs[message.slab].input, message.bucket, notes)

    def places(self, message: Run, made: Arrays | None) -> tuple[tuple[Place, ...], int]:
        """Where the inputs of a batch lie in a slab, or would lie if preprocess had `made` them there; and their bytes."""
        if made is not None:
            return layout([(name, str(array.dtype), array.shape[1:]) for name, array in made.items()], message.bucket)
        key = (message.bucket, message.dims)
        known = self._places.get(key)
        if known is None:
            known = self._places[key] = layout(input_columns(self._spec, message.dims), message.bucket)
        return known

    def answer(
        self, message: Run, outputs: Arrays, forward_ms: float, notes: list[Note], *, is_placed: bool = False
    ) -> Ran:
        """Checks outputs and writes them to the slab, where tensors may lie already (`is_placed`)."""
        if self._bounded:
            self._check_bounds(outputs, message.rows, notes)
        if self._postprocess is not None:
            return self._write_values(message, self._postprocess(outputs, message.rows), forward_ms, notes)
        if is_placed:
            columns = tuple((name, _dtype_name(array.dtype), array.shape[1:]) for name, array in outputs.items())
            return Ran(message.seq, forward_ms, columns=columns, notes=notes)
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

    # --- outputs ----------------------------------------------------------------------------

    def _check_bounds(self, outputs: Arrays, rows: int, notes: list[Note]) -> None:
        for tensor in self._bounded:
            for row, text in broken_rows(tensor, outputs[tensor.name][:rows]):
                notes.append(Note(row, tensor.on_violation == "refuse", "output_out_of_bounds", text))

    def _write_tensors(self, message: Run, outputs: Arrays, forward_ms: float, notes: list[Note]) -> Ran:
        columns = tuple((name, _dtype_name(array.dtype), array.shape[1:]) for name, array in outputs.items())
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
