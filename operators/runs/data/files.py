"""The files behind a path, a folder, a glob or any fsspec URL, and how it is known that they are still the same. Reads no format."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import Any

import fsspec
import msgspec
import pyarrow as pa
from fsspec.utils import glob_translate

from broker.errors import RunError
from broker.roots import check_within

_MARKS = ("ETag", "etag", "md5Hash", "checksum", "mtime", "LastModified", "last_modified", "modified", "created")
_COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}


class Entry(msgspec.Struct, frozen=True):
    """One file of a source. `name` is relative to the folder asked for; `mark` changes whenever the file does."""

    path: str
    name: str
    size: int
    mark: str

    @property
    def suffixes(self) -> list[str]:
        return [suffix.lower() for suffix in PurePosixPath(self.name).suffixes]

    @property
    def suffix(self) -> str:
        """The last one that is no compression's."""
        known = [suffix for suffix in self.suffixes if suffix not in _COMPRESSED]
        return known[-1] if known else ""

    @property
    def compression(self) -> str:
        return _COMPRESSED.get(self.suffixes[-1], "") if self.suffixes else ""


class Files:
    """What stands behind one URL, in name order. Entries are listed once; each opening checks that its file did not change."""

    def __init__(self, url: str, roots: Sequence[str] = ()) -> None:
        """Raises RunError when nothing is there, or the URL cannot be reached, or a file lies outside of the roots (() allows all)."""
        self.url = url
        self._roots = roots
        check_within(roots, url, "input")
        self._fs, self._root = reach(url)
        with told(url, "read"):
            self.entries = tuple(sorted(self._listed(self._root), key=lambda entry: entry.name))
        if not self.entries:
            raise RunError(f"input {url} holds no files; name a file, a folder or a glob that has some")
        for entry in self.entries:
            self._require_within(entry)

    @property
    def is_local(self) -> bool:
        return is_local(self._fs)

    @property
    def size_bytes(self) -> int:
        return sum(entry.size for entry in self.entries)

    def would_hold(self, url: str) -> bool:
        """Whether a file written there would be one of these, or is one."""
        files, path = reach(url)
        if type(files) is not type(self._fs):
            return False
        root, path = self._root.rstrip("/"), path.rstrip("/")
        pattern = re.compile(glob_translate(root))
        return (
            path == root
            or path.startswith(f"{root}/")
            or bool(pattern.match(path) or pattern.match(f"{path}/part-000000"))
        )

    def fingerprint(self) -> str:
        """Digest of names, sizes and marks: modification times, or ETags where the store has them."""
        listed = [(entry.path, entry.size, entry.mark) for entry in self.entries]
        return blake2b(msgspec.msgpack.encode(listed), digest_size=16).hexdigest()

    @contextmanager
    def opened(self, entry: Entry) -> Iterator[Any]:
        """The file as pyarrow reads it, packed or not. Raises RunError when it went away or changed, also while it was read."""
        self.check(entry)
        with told(entry.path, "read"):
            stream = (
                pa.OSFile(entry.path, "rb") if self.is_local else pa.PythonFile(self._fs.open(entry.path, "rb"), "r")
            )
        try:
            with stream:
                yield stream
        except (RunError, pa.ArrowException):
            raise
        except OSError as error:
            raise _failed(entry.path, "read", error) from None
        except Exception as error:
            if self.is_local:
                raise
            raise _failed(entry.path, "read", error) from None
        self.check(entry)

    def check(self, entry: Entry) -> None:
        """Raises RunError unless the file is the one that was listed."""
        self._require_within(entry)
        with told(entry.path, "read"):
            self._fs.invalidate_cache(self._fs._parent(entry.path))
            now = self._entry(entry.path, entry.name, None)
        if now != entry:
            raise RunError(
                f"input {entry.path} changed since the run began ({entry.size} bytes then, {now.size} now); "
                "submit a new run, and leave its files alone until it ends"
            )

    def _require_within(self, entry: Entry) -> None:
        """A link may lead anywhere, and may be another one than it was. Stores have none that could."""
        if self.is_local:
            check_within(self._roots, entry.path, "input")

    def _listed(self, root: str) -> list[Entry]:
        if any(letter in root for letter in "*?[") and not self._fs.exists(root):
            found = self._fs.glob(root, detail=True)
            found = {path: info for path, info in found.items() if self._is_file(path, info)}
            base = os.path.dirname(root[: min(root.find(letter) for letter in "*?[" if letter in root)])
        elif self._fs.isdir(root):
            found = self._fs.find(root, detail=True)
            if self.is_local:  # links to folders are named among the files
                found = {path: info for path, info in found.items() if not os.path.isdir(path)}
            base = root.rstrip("/")
        else:
            return [self._entry(root, PurePosixPath(root).name, None)]
        entries = (self._entry(path, path[len(base) :].lstrip("/"), info) for path, info in found.items())
        return [entry for entry in entries if not _is_hidden(entry.name)]

    def _is_file(self, path: str, info: dict[str, Any]) -> bool:
        """fsspec calls a link to a local file neither file nor folder."""
        return os.path.isfile(path) if self.is_local else bool(info["type"] == "file")

    def _entry(self, path: str, name: str, info: dict[str, Any] | None) -> Entry:
        if self.is_local:  # fsspec gives the time as a float, which loses what tells two quick writes apart
            stat = os.stat(path)
            return Entry(path, name, stat.st_size, str(stat.st_mtime_ns))
        info = info or self._fs.info(path)
        mark = next((str(info[key]) for key in _MARKS if info.get(key) is not None), "")
        return Entry(path, name, int(info["size"] or 0), mark)


def reach(url: str) -> tuple[Any, str]:
    """fsspec's file system for `url`, and the path in it. Raises RunError naming the package that is missing."""
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise RunError(f"{url} cannot be reached from here ({_line(error)}); install what it names with pip") from None
    except ValueError as error:  # a protocol that nobody knows
        raise RunError(f"{url} cannot be reached ({_line(error)}); correct its protocol") from None
    except Exception as error:  # noqa: BLE001 - of a plug-in, whose errors are its own
        raise RunError(f"{url} cannot be reached ({_line(error)}); see that its store answers") from None
    return fs, str(path)


def is_local(fs: Any) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


@contextmanager
def told(what: str, verb: str) -> Iterator[None]:
    """Errors of files and stores as one line of ours, with the mend."""
    try:
        yield
    except RunError:
        raise
    except FileNotFoundError:
        raise RunError(
            f"{what} is not there; see that the path is right on this host, and that nothing removes it"
        ) from None
    except Exception as error:  # noqa: BLE001 - of a plug-in, whose errors are its own
        raise _failed(what, verb, error) from None


def _failed(what: str, verb: str, error: Exception) -> RunError:
    mend = "see that the disk or store is well, then resume the run"
    if isinstance(error, PermissionError):
        mend = "give the user of the runs program the right"
    elif getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        mend = "free some space, then resume the run: what is done stays done"
    return RunError(f"{what}: cannot {verb} it ({_line(error)}); {mend}")


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _is_hidden(name: str) -> bool:
    """Markers that other tools leave: _SUCCESS, _metadata, .crc files."""
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)
