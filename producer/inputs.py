"""What a caller hands in, checked against the model's spec and laid out as wire bytes. Pure: no I/O, nothing remembered
but the shapes seen. Everything refused is an InvalidInput of one line: the input, what came, what is wanted, the mend.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from numpy import vdot
from numpy.typing import NDArray

from broker import codec
from broker.errors import InvalidInput
from broker.messages import Kind
from broker.settings import unknown
from broker.spec import ModelSpec, TensorSpec

_REMEMBERED = 1024


class Fitted(NamedTuple):
    """One job's inputs on the wire. `data` may be the caller's own array: join it before giving control back."""

    kind: Kind
    rows: int
    is_one_row: bool
    descriptor: bytes
    data: Any
    warning: str | None


class Form:
    """The inputs one model takes."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._names = {tensor.name for tensor in spec.inputs}
        self._dtypes = [np.dtype(tensor.dtype) for tensor in spec.inputs]
        # The common case is one tensor without limits, or of finite floats: its shapes are remembered, so that a job
        # costs a look-up and, for finite ones, a dot product.
        only = spec.inputs[0] if spec.takes == "tensors" and len(spec.inputs) == 1 else None
        self._is_finite = only is not None and only.finite and only.dtype in ("float32", "float64")
        has_limits = only is not None and (only.minimum is not None or only.maximum is not None)
        self._is_plain = only is not None and (not only.is_bounded or (self._is_finite and not has_limits))
        self._only_dtype = self._dtypes[0] if only is not None else None
        self._shapes: dict[tuple[int, ...], tuple[int, bool, bytes]] = {}

    def fit(self, inputs: Any) -> Fitted:
        """Checks and lays out one job's inputs.

        Takes an array (models with one input), a mapping of arrays, with the spec's rank (one row) or one axis more in
        front (many rows), lists and scalars that cast without loss, or bytes or str where the model brings a
        preprocess. Raises InvalidInput.
        """
        if self._is_plain and type(inputs) is np.ndarray and inputs.dtype is self._only_dtype:
            known = self._shapes.get(inputs.shape)
            # NaN and infinity survive a dot product; large finite values may overflow it, and are looked at closely.
            if (
                known is not None
                and inputs.flags.c_contiguous
                and (not self._is_finite or isfinite(vdot(inputs, inputs)))
            ):
                return Fitted(Kind.TENSORS, known[0], known[1], known[2], inputs, None)
        if self.spec.takes == "tensors":
            return self._fit_tensors(inputs)
        return self._fit_raw(inputs)

    # --- raw inputs -------------------------------------------------------------------------

    def _fit_raw(self, inputs: Any) -> Fitted:
        name = self.spec.name
        if self.spec.takes == "text":
            if not isinstance(inputs, str):
                mend = "; decode it first" if isinstance(inputs, bytes | bytearray) else ""
                raise InvalidInput(f"model {name!r} takes text, a str, and {_kind(inputs)} came{mend}")
            try:
                return Fitted(Kind.TEXT, 1, True, b"", inputs.encode(), None)
            except UnicodeEncodeError as error:
                fault = f"is not valid Unicode: character {error.start} is a lone surrogate; decode its bytes anew"
                raise InvalidInput(f"the text {fault}") from None
        if not isinstance(inputs, bytes | bytearray | memoryview):
            mend = "; encode it first" if isinstance(inputs, str) else ""
            raise InvalidInput(f"model {name!r} takes bytes for its preprocess, and {_kind(inputs)} came{mend}")
        return Fitted(Kind.BYTES, 1, True, b"", bytes(inputs), None)

    # --- tensors ----------------------------------------------------------------------------

    def _fit_tensors(self, inputs: Any) -> Fitted:
        specs = self.spec.inputs
        if isinstance(inputs, Mapping):
            if inputs.keys() != self._names:
                raise InvalidInput(self._wrong_names(inputs))
            given = [inputs[tensor.name] for tensor in specs]
        elif len(specs) == 1:
            given = [inputs]
        else:
            names = ", ".join(tensor.name for tensor in specs)
            raise InvalidInput(
                f"model {self.spec.name!r} has inputs {names}: pass a dict of arrays, not {_kind(inputs)}"
            )
        arrays = [
            _as_array(value, tensor, dtype) for value, tensor, dtype in zip(given, specs, self._dtypes, strict=True)
        ]
        rows, is_one_row, shapes = self._check_shapes(arrays)
        warning = None
        for array, tensor in zip(arrays, specs, strict=True):
            if tensor.is_bounded and (fault := _out_of_bounds(array, tensor)):
                if tensor.on_violation == "refuse":
                    raise InvalidInput(f"input {tensor.name!r} {fault}; clean or clip it before submitting")
                warning = f"input {tensor.name!r} {fault}"
        descriptor = codec.pack_columns(
            [(tensor.name, tensor.dtype, shape) for tensor, shape in zip(specs, shapes, strict=True)]
        )
        if self._is_plain:
            if len(self._shapes) >= _REMEMBERED:
                self._shapes.clear()
            self._shapes[arrays[0].shape] = (rows, is_one_row, descriptor)
        data = arrays[0] if len(arrays) == 1 else b"".join([array.tobytes() for array in arrays])
        return Fitted(Kind.TENSORS, rows, is_one_row, descriptor, data, warning)

    def _wrong_names(self, inputs: Mapping[Any, Any]) -> str:
        model = self.spec.name
        for name in inputs:
            if name not in self._names:
                return f"model {model!r}: {unknown('input', str(name), self._names)}"
        missing = ", ".join(sorted(self._names - inputs.keys()))
        return f"model {model!r} needs input {missing} too; add it to the dict"

    def _check_shapes(self, arrays: list[NDArray[Any]]) -> tuple[int, bool, list[tuple[int, ...]]]:
        """(rows, is_one_row, shape per row of each array)."""
        specs = self.spec.inputs
        dims: dict[str, int] = {}
        rows, is_one_row, first = 0, False, ""
        shapes = []
        for array, tensor in zip(arrays, specs, strict=True):
            extra = array.ndim - len(tensor.shape)
            if extra not in (0, 1):
                raise InvalidInput(
                    f"input {tensor.name!r} has rank {array.ndim}, shape {array.shape}; wanted {_wanted(tensor)} for one row, "
                    f"or rank {len(tensor.shape) + 1} with the rows in front; reshape it"
                )
            count = array.shape[0] if extra else 1
            if extra and count == 0:
                raise InvalidInput(
                    f"input {tensor.name!r} is an empty batch, shape {array.shape}; send at least one row"
                )
            if first and (is_one_row is bool(extra) or count != rows):
                raise InvalidInput(
                    f"input {tensor.name!r} has {_rows(count, not extra)}, input {first!r} has {_rows(rows, is_one_row)}; "
                    "give all inputs the same rows"
                )
            rows, is_one_row, first = count, not extra, first or tensor.name
            shape = array.shape[extra:]
            for dim, want in zip(shape, tensor.shape, strict=True):
                self._check_dim(array, tensor, dim, want, dims)
            shapes.append(shape)
        if rows > codec.MAX_ROWS:
            raise InvalidInput(
                f"{rows} rows in one job, at most {codec.MAX_ROWS} fit; split it, for instance with submit_many"
            )
        return rows, is_one_row, shapes

    def _check_dim(
        self, array: NDArray[Any], tensor: TensorSpec, dim: int, want: int | str, dims: dict[str, int]
    ) -> None:
        came = f"input {tensor.name!r} has shape {array.shape}"
        if isinstance(want, int):
            if dim != want:
                raise InvalidInput(f"{came}; wanted {_wanted(tensor)} per row; reshape or pad it")
            return
        if dim < 1:
            raise InvalidInput(f"{came}: {want} is 0; send at least one element")
        if dims.setdefault(want, dim) != dim:
            raise InvalidInput(f"{came}: {want} is {dim}, but {dims[want]} in another input; make them agree")
        buckets = self.spec.buckets.get(want)
        if buckets and dim > buckets[-1]:
            raise InvalidInput(f"{came}: {want} is {dim}, the model takes at most {buckets[-1]}; cut or split it")


def _as_array(value: Any, tensor: TensorSpec, dtype: np.dtype[Any]) -> NDArray[Any]:
    """`value` as a C-contiguous array of `dtype`."""
    if isinstance(value, str | bytes | bytearray):
        raise InvalidInput(f"input {tensor.name!r} takes {tensor.dtype}, and {_kind(value)} came; send numbers")
    is_array = isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__")
    if hasattr(value, "filled") or (isinstance(value, list | tuple) and any(hasattr(row, "filled") for row in value)):
        raise InvalidInput(f"input {tensor.name!r} is a masked array; fill the mask first, with .filled(VALUE)")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise InvalidInput(f"input {tensor.name!r} is not an array ({error}); send a regular array") from None
    if array.dtype == dtype:
        return array if array.flags.c_contiguous else np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.kind not in "biuf":
        raise InvalidInput(
            f"input {tensor.name!r} takes {tensor.dtype}, and {_kind(value)} of {array.dtype} came; send numbers"
        )
    if is_array:
        raise InvalidInput(
            f'input {tensor.name!r} has dtype {array.dtype}, wanted {tensor.dtype}; convert it with .astype("{tensor.dtype}")'
        )
    return _cast(array, tensor, dtype)


def _cast(array: NDArray[Any], tensor: TensorSpec, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Python numbers to `dtype`, where nothing but a float's last digits is lost."""
    came, wanted = array.dtype.kind, dtype.kind
    if array.size == 0 or (wanted == "f" and came in "iuf"):
        with np.errstate(over="ignore"):
            cast = array.astype(dtype)
        is_same = bool(np.array_equal(np.isfinite(array), np.isfinite(cast)))
    elif wanted in "iu" and came in "iu":
        limits = np.iinfo(dtype)
        is_same = int(array.min()) >= limits.min and int(array.max()) <= limits.max
        cast = array.astype(dtype)
    else:
        is_same = False
    if not is_same:
        raise InvalidInput(
            f"input {tensor.name!r} takes {tensor.dtype}, and these {array.dtype} values do not fit it; "
            f'convert them with numpy.asarray(..., dtype="{tensor.dtype}")'
        )
    return cast


def _out_of_bounds(array: NDArray[Any], tensor: TensorSpec) -> str | None:
    """What is wrong with the values, None when nothing is. NaN lies within no bound."""
    if tensor.finite and array.dtype.kind == "f" and not np.isfinite(array).all():
        return "holds NaN or infinity, which the model's manifest forbids"
    if tensor.minimum is not None and not (low := array.min()) >= tensor.minimum:
        return f"holds {low}, under its minimum {tensor.minimum:g}"
    if tensor.maximum is not None and not (high := array.max()) <= tensor.maximum:
        return f"holds {high}, over its maximum {tensor.maximum:g}"
    return None


def _wanted(tensor: TensorSpec) -> str:
    return f"({', '.join(map(str, tensor.shape))}{',' if len(tensor.shape) == 1 else ''})"


def _rows(count: int, is_one_row: bool) -> str:
    return "one row without a row axis" if is_one_row else f"{count} rows"


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    return "bytes" if isinstance(value, bytes | bytearray) else f"a {type(value).__name__}"
