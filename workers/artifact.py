"""A model artifact: a folder with manifest.json and the files it names. Read here, checked before any loader sees a byte.

Not here: how its files are opened (`files`), its own Python (`pipeline`), loading the model (`backends`), running it.
Imports neither torch nor onnxruntime, so the slot may use it.

Every file the manifest names carries size and sha256. `open_artifact` checks them all; `Artifact.read` reads a file once and
checks the very bytes it returns, so nothing can change between check and use. Backends load from those bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from broker.errors import ArtifactError
from broker.settings import unknown
from broker.spec import ModelSpec
from workers import manifest as manifests
from workers.files import compare, inside, mend, opened
from workers.golden import probe_inputs as probe_inputs
from workers.golden import probe_mismatch as probe_mismatch
from workers.manifest import MANIFEST, File, Manifest, Options, wrong_path
from workers.pipeline import top_level_names

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

    def row_buckets(self, most: int = 0, chosen: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Sizes batches are padded to, ascending; with `most` the last one is at most that, `chosen` go before the manifest's."""
        top = min(most or self.manifest.max_rows, self.manifest.max_rows)
        sizes = chosen or self.manifest.row_buckets or tuple(1 << power for power in range(top.bit_length()))
        return (*(size for size in sizes if size < top), top)

    def path(self, name: str) -> Path:
        """Where a listed file lies. Raises ArtifactError when it is not listed, or a link leads out of the folder."""
        self._listed(name)
        return inside(self.folder, name)

    def read(self, name: str) -> bytes:
        """A listed file's bytes, read once; what is returned is what was checked. Raises ArtifactError."""
        listed = self._listed(name)
        with opened(self.folder, name, listed) as file:
            data = file.read(listed.size + 1)
        compare(self.folder, listed, len(data), hashlib.sha256(data).hexdigest())
        return data

    def problems(self) -> Iterator[str]:
        """One sentence per file that is missing, altered or unsafe; every file is read."""
        for listed in self.manifest.files:
            try:
                with opened(self.folder, listed.path, listed) as file:
                    digest, size = hashlib.sha256(), 0
                    while chunk := file.read(CHUNK_BYTES):
                        digest.update(chunk)
                        size += len(chunk)
                compare(self.folder, listed, size, digest.hexdigest())
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
    functions = top_level_names(artifact.read(pipeline), artifact.folder, pipeline)
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
    with opened(folder, MANIFEST) as file:
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
            raise ArtifactError(f'{folder / MANIFEST}: "{name}" would be opened but {have}; {mend(folder)}')
    return Artifact(folder, manifest, options)


def _sealed(folder: Path, name: str) -> dict[str, Any]:
    with opened(folder, name) as file:
        digest = hashlib.file_digest(file, "sha256")
        return {"path": name, "size": file.tell(), "sha256": digest.hexdigest()}


def _is_ignored(path: Path) -> bool:
    return path.as_posix() == MANIFEST or any(part.startswith(".") or part == "__pycache__" for part in path.parts)
