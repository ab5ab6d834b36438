"""manifest.json: what an artifact says of itself, as structs, and what in it cannot be. Opens no file.

Not here: the files it names (`artifact`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from broker.codec import DTYPES, MAX_COLUMNS, MAX_RANK
from broker.errors import ArtifactError
from broker.settings import unknown
from broker.spec import TensorSpec
from workers.options import OPTIONS as OPTIONS
from workers.options import OnnxOptions as OnnxOptions
from workers.options import Options as Options
from workers.options import PytorchOptions as PytorchOptions
from workers.options import TorchscriptOptions as TorchscriptOptions
from workers.values import Values as Values

MANIFEST = "manifest.json"
FORMAT = 1
MOST_ROWS = 1 << 16
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNKNOWN_FIELD = re.compile(r"unknown field `(.*?)`(?: - at `\$\.?([a-z_]*)(.*)`)?$")

T = TypeVar("T", bound=msgspec.Struct)


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the artifact. Without size and sha256 it is not sealed yet."""

    path: str
    size: int = -1
    sha256: str = ""


class Probe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Golden probe: inputs and the outputs they must give. Arrays have the row axis.

    Inputs not written out are made from `seed` (see `made_from_seed`), at the smallest bucket of varying dimensions.
    """

    rows: int
    outputs: dict[str, Values]
    inputs: dict[str, Values] = {}
    seed: int = 0
    atol: float = 1e-5
    rtol: float = 1e-3


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """manifest.json as written. `row_buckets` empty means powers of two up to `max_rows`."""

    format: int
    name: str
    version: str
    backend: Literal["onnx", "pytorch", "torchscript"]
    takes: Literal["tensors", "bytes", "text"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_rows: int
    options: dict[str, Any]
    row_buckets: tuple[int, ...] = ()
    buckets: dict[str, tuple[int, ...]] = {}
    files: tuple[File, ...] = ()
    pipeline: str | None = None
    golden: Probe | None = None


# where an unknown key stands -> whose keys are known there
_PARTS: dict[str, type[msgspec.Struct]] = {"inputs": TensorSpec, "outputs": TensorSpec, "files": File, "golden": Probe}


# --- reading it -----------------------------------------------------------------------------


def read(raw: Any, where: str) -> tuple[Manifest, Options]:
    """The manifest and its backend's options from decoded JSON, checked in themselves. Raises ArtifactError.

    `where` opens the text of the error. That the files exist and are listed is not looked at.
    """
    manifest = _convert(raw, Manifest, where)
    if manifest.format != FORMAT:
        raise ArtifactError(
            f"{where}: format {manifest.format}, this version reads {FORMAT}; upgrade the workers, or rebuild it"
        )
    options = _convert(manifest.options, OPTIONS[manifest.backend], f"{where}: options")
    for problem in _contradictions(manifest, options):
        raise ArtifactError(f"{where}: {problem}")
    return manifest, options


def _convert(raw: Any, kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        text = str(error)
        if match := _UNKNOWN_FIELD.search(text):
            key, part, inner = match.group(1), match.group(2) or "", match.group(3) or ""
            struct = _PARTS.get(part, kind) if kind is Manifest else kind
            if part == "golden" and inner:
                struct = Values
            known = (field.encode_name for field in msgspec.structs.fields(struct))
            text = f"{part + ': ' if part else ''}{unknown('key', key, known)}"
        raise ArtifactError(f"{where}: {text}") from None


def wrong_path(name: str) -> str:
    """What is wrong with a path of the manifest, or nothing."""
    if not name or not name.isprintable() or "\\" in name:
        return "holds what a path here may not: use printable letters and /"
    if name.startswith("/"):
        return "is absolute; name it relative to the artifact's folder"
    if ".." in name.split("/"):
        return "leads upwards; every file lies in the artifact's folder"
    if PurePosixPath(name).as_posix() != name or name == ".":
        return f"is not in its plain form; write {PurePosixPath(name).as_posix()!r}"
    return ""


def _contradictions(manifest: Manifest, options: Options) -> Iterator[str]:
    """What the manifest says that cannot be."""
    if not _NAME.fullmatch(manifest.name) or manifest.name == "pool":
        yield f'name "{manifest.name}" may hold letters, digits, - and _ only, at most 64, and not be "pool"'
    if not _VERSION.fullmatch(manifest.version):
        yield f'version "{manifest.version}" may hold letters, digits and ._+- only, at most 64'
    if not 0 < manifest.max_rows <= MOST_ROWS:
        yield f"max_rows = {manifest.max_rows} must lie between 1 and {MOST_ROWS}"
    if manifest.row_buckets and (not _ascends(manifest.row_buckets) or manifest.row_buckets[-1] != manifest.max_rows):
        yield f"row_buckets {list(manifest.row_buckets)} must ascend from 1 or more to max_rows, {manifest.max_rows}"
    yield from _wrong_tensors("inputs", manifest.inputs, manifest.buckets)
    yield from _wrong_tensors("outputs", manifest.outputs, manifest.buckets)
    varying = {dim for tensor in manifest.inputs for dim in tensor.shape if isinstance(dim, str)}
    for name, sizes in manifest.buckets.items():
        if not _ascends(sizes):
            yield f'buckets: "{name}" must list sizes that ascend from 1 or more'
        if name not in varying:
            yield f"buckets: {unknown('dimension', name, varying)}"
    yield from _wrong_files(manifest)
    if manifest.takes != "tensors" and manifest.pipeline is None:
        yield f'takes is "{manifest.takes}", so "pipeline" must name the file that defines preprocess'
    if isinstance(options, PytorchOptions) and bool(options.program) == bool(options.module and options.class_name):
        yield 'options: give either "program" (a .pt2), or "module" and "class" (and "weights")'
    if isinstance(options, PytorchOptions) and options.program and options.precision:
        yield 'options: "precision" casts a module; export the program in the precision it is to run in'
    if isinstance(options, OnnxOptions):
        for name, values in options.constants.items():
            if any(name == tensor.name for tensor in manifest.inputs):
                yield f'options.constants: "{name}" is an input that jobs bring; drop it from one of the two'
            if problem := _wrong_values(values):
                yield f'options.constants "{name}": {problem}'
    if manifest.golden is not None:
        yield from _wrong_probe(manifest, manifest.golden)


def _ascends(sizes: tuple[int, ...]) -> bool:
    return bool(sizes) and sizes[0] > 0 and all(low < high for low, high in pairwise(sizes))


def _wrong_tensors(where: str, tensors: tuple[TensorSpec, ...], buckets: dict[str, tuple[int, ...]]) -> Iterator[str]:
    if not 0 < len(tensors) <= MAX_COLUMNS:
        yield f"{where} names {len(tensors)} tensors; between 1 and {MAX_COLUMNS} are possible"
    if len({tensor.name for tensor in tensors}) < len(tensors):
        yield f"{where} names a tensor twice"
    for tensor in tensors:
        at = f'{where}: "{tensor.name}"'
        if not 0 < len(tensor.name.encode()) < 256:
            yield f"{at}: a name has between 1 and 255 bytes"
        if tensor.dtype not in DTYPES:
            yield f"{at}: {unknown('dtype', tensor.dtype, DTYPES)}"
            continue
        if len(tensor.shape) > MAX_RANK:
            yield f"{at}: {len(tensor.shape)} dimensions beside the rows; at most {MAX_RANK} travel"
        for dim in tensor.shape:
            if isinstance(dim, str) and dim not in buckets:
                yield f'{at}: dimension "{dim}" varies, so "buckets" must list the sizes it is padded to'
            if isinstance(dim, int) and dim < 1:
                yield f"{at}: dimension {dim} in shape; a size is at least 1, a varying one is a string"
        if tensor.minimum is not None and tensor.maximum is not None and tensor.minimum > tensor.maximum:
            yield f"{at}: minimum {tensor.minimum} is above maximum {tensor.maximum}"
        if np.dtype(tensor.dtype).kind != "f" and int(tensor.pad_value) != tensor.pad_value:
            yield f"{at}: pad_value {tensor.pad_value} is not of dtype {tensor.dtype}"


def _wrong_files(manifest: Manifest) -> Iterator[str]:
    if len({file.path for file in manifest.files}) < len(manifest.files):
        yield "files names a path twice; run `penstock models seal` on the folder"
    for file in manifest.files:
        if problem := wrong_path(file.path):
            yield f"files: path {file.path!r} {problem}"
        if file.path == MANIFEST:
            yield f"files: {MANIFEST} cannot hold its own checksum; drop it"
        if file.size >= 0 and not _SHA256.fullmatch(file.sha256):
            yield f'files: sha256 of "{file.path}" is not 64 hexadecimal digits; run `penstock models seal` on the folder'


def _wrong_values(values: Values) -> str:
    if values.dtype not in DTYPES:
        return unknown("dtype", values.dtype, DTYPES)
    if any(dim < 0 for dim in values.shape):
        return f"shape {list(values.shape)} is negative"
    wanted = math.prod(values.shape) * np.dtype(values.dtype).itemsize
    return "" if len(values.data) == wanted else f"holds {len(values.data)} bytes, its shape and dtype take {wanted}"


def _wrong_probe(manifest: Manifest, probe: Probe) -> Iterator[str]:
    if not 0 < probe.rows <= manifest.max_rows:
        yield f"golden: rows = {probe.rows} must lie between 1 and max_rows, {manifest.max_rows}"
    for given, tensors in ((probe.inputs, manifest.inputs), (probe.outputs, manifest.outputs)):
        specs = {tensor.name: tensor for tensor in tensors}
        for name, values in given.items():
            if name not in specs:
                yield f"golden: {unknown('tensor', name, specs)}"
            elif problem := _wrong_values(values):
                yield f'golden: "{name}" {problem}'
            elif values.dtype != specs[name].dtype or not _fits(values.shape, probe.rows, specs[name].shape):
                yield f'golden: "{name}" is {values.dtype} {list(values.shape)}, not {probe.rows} rows of what the manifest says'
    if not probe.outputs:
        yield "golden: holds no outputs to compare with"


def _fits(shape: tuple[int, ...], rows: int, row_shape: tuple[int | str, ...]) -> bool:
    return (
        len(shape) == len(row_shape) + 1
        and shape[0] == rows
        and all(have == want or isinstance(want, str) for have, want in zip(shape[1:], row_shape, strict=True))
    )
