"""Which artifacts may run code when they are loaded: the trusted list, a text file with the digests of their manifests.

A manifest names every file of its artifact with its sha256, so its own digest stands for all of them. Not a signature: the
list says what an operator of this pool has looked at, not who made it. Imports neither torch nor onnxruntime.
"""

from __future__ import annotations

import os
import re
import stat
from datetime import UTC, datetime
from pathlib import Path

from broker.errors import ArtifactError
from workers.artifact import Artifact
from workers.manifest import PytorchOptions, TorchscriptOptions

_LINE = re.compile(r"([0-9a-f]{64})(\s+#.*)?")
_HEAD = "# Artifacts that may run code when they are loaded: sha256 of manifest.json, then what it was. `penstock models trust` adds a line.\n"


def code_in(artifact: Artifact) -> list[str]:
    """Files of the artifact that run code when they are loaded; none for plain ONNX."""
    options, pipeline = artifact.options, artifact.manifest.pipeline
    names = [pipeline] if pipeline is not None else []
    if isinstance(options, PytorchOptions):
        names += filter(None, (options.program, options.module))
    elif isinstance(options, TorchscriptOptions):
        names.append(options.file)
    return names


def read(path: Path) -> frozenset[str]:
    """The digests on the list; none when there is no such file. Raises ArtifactError naming the line that is wrong."""
    try:
        with path.open() as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IWOTH:
                raise ArtifactError(
                    f"{path}: everybody may write to it; `chmod o-w {path}`, and look at what stands in it"
                )
            lines = file.read().splitlines()
    except FileNotFoundError:
        return frozenset()
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: cannot be read: {error}; it is a text file, or set pool.trusted") from None
    found = set()
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            match = _LINE.fullmatch(line.strip())
            if match is None:
                raise ArtifactError(
                    f"{path}:{number}: no sha256 of 64 hexadecimal digits, then # and a note; correct the line"
                )
            found.add(match[1])
    return frozenset(found)


def problem(artifact: Artifact, path: Path) -> str:
    """Why the artifact may not be loaded, with the mend; nothing when it may."""
    names = code_in(artifact)
    if not names or artifact.digest in read(path):
        return ""
    runs = "runs" if len(names) == 1 else "run"
    return (
        f"{artifact.folder}: not trusted: {' and '.join(names)} {runs} code when loaded; look at where it came from, then "
        f"`penstock models trust {artifact.manifest.name}`"
    )


def require(artifact: Artifact, path: Path) -> None:
    """Raises ArtifactError when the artifact runs code and is not on the list."""
    if text := problem(artifact, path):
        raise ArtifactError(text)


def add(artifact: Artifact, path: Path) -> bool:
    """Puts the artifact's digest on the list; whether it was not on it. Raises ArtifactError when the list cannot be written."""
    if artifact.digest in read(path):
        return False
    manifest = artifact.manifest
    line = f"{artifact.digest}  # {manifest.name} {manifest.version}, {datetime.now(UTC):%Y-%m-%d}\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        with os.fdopen(handle, "r+b") as file:
            before = file.read()
            gap = b"" if not before or before.endswith(b"\n") else b"\n"
            file.write((b"" if before else _HEAD.encode()) + gap + line.encode())
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot be written: {error.strerror}; set pool.trusted to a file of yours"
        ) from None
    return True
