"""Which content a run's input has, without reading it: a digest of names, sizes and times of change.

It makes a run's id, so the command, the Python API and a pipeline's retry all come to the same run; a file that was written
anew is another input. Local paths need nothing but the standard library, URLs fsspec (an optional extra).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from glob import glob
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from broker.errors import RunError

MAGIC = "*?["
# What object stores and fsspec's file systems call the mark of a file's content, the surest first.
MARKS = ("ETag", "etag", "md5Hash", "checksum", "mtime", "LastModified", "last_modified", "modified", "created")
FILE = "file://"


class _File(NamedTuple):
    """One file of an input; `name` is relative to the folder asked for. They sort by it."""

    name: str
    path: str
    size: int
    mark: str


def is_local(url: str) -> bool:
    """Whether it is a path of one machine: no protocol, or file://."""
    return "://" not in url or url.startswith(FILE)


def absolute(url: str) -> str:
    """A local path as every program of this machine understands it; a folder keeps its / at the end. URLs stay as they are."""
    if not is_local(url):
        return url
    path = os.path.expanduser(url.removeprefix(FILE))
    return os.path.abspath(path) + "/" * (path.endswith("/") and os.path.abspath(path) != "/")


def fingerprint(url: str) -> str:
    """32 hex digits, the same that the runs program gets. Raises RunError when nothing is there, or it cannot be looked at."""
    path = absolute(url)
    found = sorted(_local_files(path) if is_local(url) else _remote_files(url))
    listed = [(file, size, mark) for _, file, size, mark in found]
    if not listed:
        raise RunError(f"input {path} holds no files; name a file, a folder or a glob that has some")
    return blake2b(msgspec.msgpack.encode(listed), digest_size=16).hexdigest()


def exists(url: str) -> bool:
    """Whether a file stands there, or a folder that holds something. Raises RunError when that cannot be told."""
    path = absolute(url)
    if is_local(url):
        return os.path.isfile(path) or (os.path.isdir(path) and bool(os.listdir(path)))
    files, root = _reach(url)
    try:
        return bool(files.find(root) if files.isdir(root) else files.exists(root))
    except Exception as error:  # noqa: BLE001 - of a plug-in, whose errors are its own
        raise _unseen(url, error) from None


def _local_files(path: str) -> Iterator[_File]:
    """By the standard library, so that producers need no other."""
    try:
        for name, file in _local_names(path):
            found = os.stat(file)
            yield _File(name, file, found.st_size, str(found.st_mtime_ns))
    except OSError as error:
        raise RunError(f"cannot read {error.filename or path}: {error.strerror}; name an input that is there") from None


def _local_names(path: str) -> Iterator[tuple[str, str]]:
    if any(letter in path for letter in MAGIC):
        base = os.path.dirname(path[: min(path.find(letter) for letter in MAGIC if letter in path)])
        found = [
            file for file in glob(path, recursive=True, include_hidden=True)
            if os.path.isfile(file) and not _is_behind_link(file, base)
        ]  # fmt: skip
    elif os.path.isdir(path):
        base = path.rstrip("/")
        found = [os.path.join(folder, name) for folder, _, names in os.walk(base) for name in names]
    else:
        yield os.path.basename(path), path
        return
    for file in found:
        name = file[len(base) :].lstrip("/")
        if not _is_hidden(name):
            yield name, file


def _is_behind_link(file: str, base: str) -> bool:
    """Whether a linked folder below `base` leads to it; fsspec does not go there."""
    above = os.path.dirname(file)
    while len(above) > len(base):
        if os.path.islink(above):
            return True
        above = os.path.dirname(above)
    return False


def _remote_files(url: str) -> Iterator[_File]:
    files, root = _reach(url)
    try:
        if any(letter in root for letter in MAGIC):
            base = os.path.dirname(root[: min(root.find(letter) for letter in MAGIC if letter in root)])
            found = {path: about for path, about in files.glob(root, detail=True).items() if about["type"] == "file"}
        elif files.isdir(root):
            base, found = root.rstrip("/"), files.find(root, detail=True)
        else:
            base, found = root, {root: files.info(root)}
    except Exception as error:  # noqa: BLE001 - of a plug-in, whose errors are its own
        raise _unseen(url, error) from None
    for path, about in found.items():
        name = path[len(base) :].lstrip("/")
        if not _is_hidden(name):
            mark = next((str(about[key]) for key in MARKS if about.get(key) is not None), "")
            yield _File(name, path, int(about["size"] or 0), mark)


def _reach(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError:
        raise RunError(f"{url} needs fsspec, which is not installed; pip install 'penstock[fsspec]'") from None
    try:
        files: Any
        files, root = fsspec.core.url_to_fs(url)
        files.invalidate_cache()
    except Exception as error:  # noqa: BLE001 - of a plug-in, whose errors are its own
        raise _unseen(url, error) from None
    return files, str(root)


def _unseen(url: str, error: Exception) -> RunError:
    text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return RunError(f"cannot look at {url} ({text}); see that it is there and can be reached from here")


def _is_hidden(name: str) -> bool:
    """What other programs leave beside the data: _SUCCESS, _metadata, .crc files."""
    return any(part.startswith((".", "_")) for part in name.split("/"))
