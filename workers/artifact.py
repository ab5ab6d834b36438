"""A model artifact: a folder with manifest.json and the files it names. Read here, checked before any loader sees a byte.

Not here: loading the model (`backends`), running it. Imports neither torch nor onnxruntime, so the slot may use it.

Every file the manifest names carries size and sha256. `open_artifact` checks them all; `Artifact.read` reads a file once and
checks the very bytes it returns, so nothing can change between check and use. Backends load from those bytes.

`pipeline.py` is optional Python of the artifact's own, run in the engine, never in the slot. It may define:

    setup(read)                  once, first; read("labels.json") gives a listed file's checked bytes
    preprocess(items)            list of bytes (or str) -> a list as long: per item the model's inputs without the row axis,
                                 {name: array}, or an Exception; so one bad item fails alone. Required unless takes is "tensors".
    postprocess(outputs, rows)   {name: array [>= rows, ...]} -> a list of `rows` plain values (what msgpack carries)

It is one file: it imports installed packages, not its neighbours in the folder.
"""

from __future__ import annotations

import ast
import hashlib
import linecache
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import msgspec

from broker.errors import ArtifactError
from broker.settings import unknown
from broker.spec import ModelSpec
from workers import manifest as manifests
from workers.backends import Arrays
from workers.golden import probe_inputs as probe_inputs
from workers.golden import probe_mismatch as probe_mismatch
from workers.manifest import MANIFEST, File, Manifest, Options, wrong_path

MANIFEST_LIMIT_BYTES = 64 << 20  # golden probes are in it; more is a mistake
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Artifact:
    """A parsed artifact. `open_artifact` gives one whose files were checked."""

    folder: Path
    manifest: Manifest
    options: Options
    digest: str = ""  # sha256 of manifest.json as it was read; it stands for every file that the manifest names
    functions: frozenset[str] = frozenset()  # top-level names of pipeline.py

    @property
    def spec(self) -> ModelSpec:
        """What producers need to know of the model."""
        manifest = self.manifest
        return ModelSpec(
            name=manifest.name, version=manifest.version, takes=manifest.takes, inputs=manifest.inputs,
            outputs=manifest.outputs, max_rows=manifest.max_rows, buckets=manifest.buckets,
            has_postprocess="postprocess" in self.functions,
        )  # fmt: skip

    def row_buckets(self, most: int = 0) -> tuple[int, ...]:
        """Sizes batches are padded to, ascending; with `most` the last one is at most that."""
        top = min(most or self.manifest.max_rows, self.manifest.max_rows)
        sizes = self.manifest.row_buckets or tuple(1 << power for power in range(top.bit_length()))
        return (*(size for size in sizes if size < top), top)

    def path(self, name: str) -> Path:
        """Where a listed file lies. Raises ArtifactError when it is not listed, or a link leads out of the folder."""
        self._listed(name)
        return _inside(self.folder, name)

    def read(self, name: str) -> bytes:
        """A listed file's bytes, read once; what is returned is what was checked. Raises ArtifactError."""
        listed = self._listed(name)
        with _opened(self.folder, name, listed) as file:
            data = file.read(listed.size + 1)
        _compare(self.folder, listed, len(data), hashlib.sha256(data).hexdigest())
        return data

    def problems(self) -> Iterator[str]:
        """One sentence per file that is missing, altered or unsafe; every file is read."""
        for listed in self.manifest.files:
            try:
                with _opened(self.folder, listed.path, listed) as file:
                    digest, size = hashlib.sha256(), 0
                    while chunk := file.read(CHUNK_BYTES):
                        digest.update(chunk)
                        size += len(chunk)
                _compare(self.folder, listed, size, digest.hexdigest())
            except ArtifactError as error:
                yield str(error)

    def _listed(self, name: str) -> File:
        for file in self.manifest.files:
            if file.path == name:
                return file
        raise ArtifactError(
            f"{self.folder / MANIFEST}: {unknown('file', name, [file.path for file in self.manifest.files])}"
        )


def open_artifact(folder: Path | str, *, digest: str = "") -> Artifact:
    """Reads the manifest and checks every file it names. Raises ArtifactError: which file, what is wrong, the mend.

    With `digest` it opens that very manifest and no other one: what somebody else looked at before.
    """
    artifact = parse(folder)
    if digest not in ("", artifact.digest):
        raise ArtifactError(
            f"{artifact.folder / MANIFEST}: changed since it was checked a moment ago; start the slot again once it is whole"
        )
    for problem in artifact.problems():
        raise ArtifactError(problem)
    pipeline = artifact.manifest.pipeline
    if pipeline is None:
        return artifact
    functions = _top_level_names(artifact.read(pipeline), artifact.folder, pipeline)
    if artifact.manifest.takes != "tensors" and "preprocess" not in functions:
        raise ArtifactError(
            f'{artifact.folder / pipeline}: takes is "{artifact.manifest.takes}", so it must define preprocess'
        )
    return replace(artifact, functions=functions)


def parse(folder: Path | str) -> Artifact:
    """The manifest alone, checked in itself; no other file is opened. Raises ArtifactError."""
    folder = Path(folder).absolute()
    data = _manifest_bytes(folder)
    return replace(_artifact(folder, _decoded(folder, data)), digest=hashlib.sha256(data).hexdigest())


def seal(folder: Path | str) -> Artifact:
    """Writes path, size and sha256 of every file in the folder into manifest.json. Raises ArtifactError.

    Hidden files and __pycache__ are left out.
    """
    folder = Path(folder).absolute()
    raw = _decoded(folder, _manifest_bytes(folder))
    found = sorted(
        path for path in folder.rglob("*") if not path.is_dir() and not _is_ignored(path.relative_to(folder))
    )
    raw["files"] = [_sealed(folder, path.relative_to(folder).as_posix()) for path in found]
    artifact = _artifact(folder, raw)
    text = msgspec.json.format(msgspec.json.encode(raw), indent=2)
    beside = folder / f".{MANIFEST}.{os.getpid()}"
    with beside.open("wb") as file:
        file.write(text + b"\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(folder / MANIFEST)
    return replace(artifact, digest=hashlib.sha256(text + b"\n").hexdigest())


def write(folder: Path | str, manifest: Manifest) -> Artifact:
    """Writes manifest.json for files that already lie in `folder`, and seals them; for build scripts."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    seal(folder)
    return open_artifact(folder)


# --- reading and checking -------------------------------------------------------------------


def _manifest_bytes(folder: Path) -> bytes:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder; build the artifact, or correct `artifact` in pool.toml")
    if not path.exists():
        raise ArtifactError(f"{folder}: holds no {MANIFEST}; name the folder of one version of one model")
    with _opened(folder, MANIFEST) as file:
        data = file.read(MANIFEST_LIMIT_BYTES + 1)
    if len(data) > MANIFEST_LIMIT_BYTES:
        raise ArtifactError(
            f"{path}: larger than {MANIFEST_LIMIT_BYTES} bytes; give the golden probe a seed instead of inputs"
        )
    return data


def _decoded(folder: Path, data: bytes) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path}: not JSON: {error}; rebuild the artifact") from None
    if not isinstance(raw, dict):
        raise ArtifactError(f"{path}: holds no JSON object; rebuild the artifact")
    return raw


def _artifact(folder: Path, raw: dict[str, Any]) -> Artifact:
    manifest, options = manifests.read(raw, str(folder / MANIFEST))
    listed = {file.path for file in manifest.files}
    for name in (*options.files, *filter(None, (manifest.pipeline,))):
        if problem := wrong_path(name):
            raise ArtifactError(f"{folder / MANIFEST}: path {name!r} {problem}")
        if name not in listed:
            have = "is not listed in files" if (folder / name).exists() else "does not exist"
            raise ArtifactError(f'{folder / MANIFEST}: "{name}" would be opened but {have}; {_mend(folder)}')
    return Artifact(folder, manifest, options)


def _sealed(folder: Path, name: str) -> dict[str, Any]:
    with _opened(folder, name) as file:
        digest = hashlib.file_digest(file, "sha256")
        return {"path": name, "size": file.tell(), "sha256": digest.hexdigest()}


def _is_ignored(path: Path) -> bool:
    return path.as_posix() == MANIFEST or any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _inside(folder: Path, name: str) -> Path:
    """The real path of `name`; refused when it leads out of the folder. The folder itself may be a link."""
    path = folder / name
    if problem := wrong_path(name):
        raise ArtifactError(f"{folder / MANIFEST}: path {name!r} {problem}")
    try:
        real = Path(os.path.realpath(path, strict=True))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; {_mend(folder)}") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be followed: {error}; {_mend(folder)}") from None
    if not real.is_relative_to(os.path.realpath(folder)):
        raise ArtifactError(f"{path}: a link leads out of the artifact's folder, to {real}; copy the file in")
    return real


def _opened(folder: Path, name: str, listed: File | None = None) -> BufferedReader:
    """Opens a regular file of the listed size; anything else (a pipe, a device, a longer file) is not read at all."""
    path = folder / name
    try:
        handle = os.open(_inside(folder, name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}; {_mend(folder)}") from None
    status = os.fstat(handle)
    problem = "" if stat.S_ISREG(status.st_mode) else f"{path}: not a regular file; {_mend(folder)}"
    if listed is not None and not problem:
        problem = _wrong_size(folder, listed, status.st_size)
    if problem:
        os.close(handle)
        raise ArtifactError(problem)
    return os.fdopen(handle, "rb")


def _compare(folder: Path, listed: File, size: int, digest: str) -> None:
    problem = _wrong_size(folder, listed, size)
    if not problem and digest != listed.sha256:
        differ = f"sha256 is {digest[:12]}…, the manifest says {listed.sha256[:12]}…"
        problem = f"{folder / listed.path}: altered: {differ}; {_mend(folder)}"
    if problem:
        raise ArtifactError(problem)


def _wrong_size(folder: Path, listed: File, size: int) -> str:
    if listed.size < 0:
        return f"{folder / listed.path}: not sealed yet; {_mend(folder)}"
    if size == listed.size:
        return ""
    what = "truncated" if size < listed.size else "altered"
    return f"{folder / listed.path}: {what}: {size} bytes, the manifest says {listed.size}; {_mend(folder)}"


def _mend(folder: Path) -> str:
    return f"rebuild it, or run `penstock models seal {folder}` if the change is yours"


# --- the artifact's own Python --------------------------------------------------------------


@dataclass(slots=True)
class Pipeline:
    """The functions pipeline.py defined; see the top of this file for their contract."""

    preprocess: Callable[[list[Any]], list[dict[str, Any] | Exception]] | None = None
    postprocess: Callable[[Arrays, int], list[Any]] | None = None


def load_pipeline(artifact: Artifact) -> Pipeline | None:
    """Runs the artifact's pipeline.py, if it has one, from checked bytes. What its code raises passes through."""
    name = artifact.manifest.pipeline
    if name is None:
        return None
    module = load_module(artifact, name)
    setup = getattr(module, "setup", None)
    if setup is not None:
        setup(artifact.read)
    return Pipeline(getattr(module, "preprocess", None), getattr(module, "postprocess", None))


def load_module(artifact: Artifact, name: str) -> ModuleType:
    """Runs a listed Python file as a module of its own, from checked bytes; tracebacks and debuggers find its source."""
    path = str(artifact.folder / name)
    source = artifact.read(name)
    module = ModuleType(f"artifact_{artifact.manifest.name}_{PurePosixPath(name).stem}".replace("-", "_"))
    module.__file__ = path
    text = source.decode()
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
    sys.modules[module.__name__] = module  # dataclasses and torch look classes' modules up there
    exec(compile(source, path, "exec"), module.__dict__)
    return module


def _top_level_names(source: bytes, folder: Path, name: str) -> frozenset[str]:
    """Names a module binds at its top level, without running it."""
    path = folder / name
    try:
        body = ast.parse(source, str(path)).body
    except (SyntaxError, ValueError) as error:
        raise ArtifactError(f"{path}: not Python: {error}; correct it, then {_mend(folder)}") from None
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return frozenset(names)
