"""The files in an artifact's folder: opened without trusting a name, a link or a kind of file, and held against the manifest.

Every error is an ArtifactError that names the file, what is wrong and the mend.
"""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from broker.errors import ArtifactError
from workers.manifest import MANIFEST, File, wrong_path


def inside(folder: Path, name: str) -> Path:
    """The real path of `name`; refused when it leads out of the folder. The folder itself may be a link."""
    path = folder / name
    if problem := wrong_path(name):
        raise ArtifactError(f"{folder / MANIFEST}: path {name!r} {problem}")
    try:
        real = Path(os.path.realpath(path, strict=True))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; {mend(folder)}") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be followed: {error}; {mend(folder)}") from None
    if not real.is_relative_to(os.path.realpath(folder)):
        raise ArtifactError(f"{path}: a link leads out of the artifact's folder, to {real}; copy the file in")
    return real


def opened(folder: Path, name: str, listed: File | None = None) -> BufferedReader:
    """Opens a regular file of the listed size; anything else (a pipe, a device, a longer file) is not read at all."""
    path = folder / name
    try:
        handle = os.open(inside(folder, name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}; {mend(folder)}") from None
    status = os.fstat(handle)
    problem = "" if stat.S_ISREG(status.st_mode) else f"{path}: not a regular file; {mend(folder)}"
    if listed is not None and not problem:
        problem = _wrong_size(folder, listed, status.st_size)
    if problem:
        os.close(handle)
        raise ArtifactError(problem)
    return os.fdopen(handle, "rb")


def compare(folder: Path, listed: File, size: int, digest: str) -> None:
    """Raises ArtifactError when what was read is not what the manifest lists."""
    problem = _wrong_size(folder, listed, size)
    if not problem and digest != listed.sha256:
        differ = f"sha256 is {digest[:12]}…, the manifest says {listed.sha256[:12]}…"
        problem = f"{folder / listed.path}: altered: {differ}; {mend(folder)}"
    if problem:
        raise ArtifactError(problem)


def _wrong_size(folder: Path, listed: File, size: int) -> str:
    if listed.size < 0:
        return f"{folder / listed.path}: not sealed yet; {mend(folder)}"
    if size == listed.size:
        return ""
    what = "truncated" if size < listed.size else "altered"
    return f"{folder / listed.path}: {what}: {size} bytes, the manifest says {listed.size}; {mend(folder)}"


def mend(folder: Path) -> str:
    """What to do about a file that is not as its manifest says."""
    return f"rebuild it, or run `penstock models seal {folder}` if the change is yours"
