"""Where a sink's files stand, and how one comes to be there whole: written under another name, synced, renamed. Knows no format.

Local files are handled by their own calls, for fsync; object stores through fsspec, whose puts are whole or not at all.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from broker.errors import RunError
from operators.runs.data.files import is_local, reach, told


class Shelf:
    """The output's own place, and the folder of parts beside it."""

    def __init__(self, url: str, run: str) -> None:
        self.url = url
        self.is_folder = url.endswith("/")
        self._fs, path = reach(url)
        self.final = path.rstrip("/")
        self.parts = f"{self.final}.run-{run}"
        self.parts_url = f"{url.rstrip('/')}.run-{run}"
        self.is_local = is_local(self._fs)

    def check_writable(self) -> None:
        """Raises RunError when nothing could be written, as far as can be told without writing."""
        if not self.is_local:
            return
        above = Path(self.final).parent
        while not above.exists() and above != above.parent:
            above = above.parent
        if not above.is_dir():
            raise RunError(f"output {self.url}: {above} is no folder; choose another place")
        if not os.access(above, os.W_OK | os.X_OK):
            raise RunError(
                f"output {self.url}: may not write into {above}; give the user of the runs program the right"
            )

    def is_there(self) -> bool:
        """Whether anything stands under the final name; an empty folder is nothing where a folder is wanted."""
        with told(self.url, "look for"):
            self._fs.invalidate_cache()
            if not self._fs.exists(self.final):
                return False
            return not (self.is_folder and self._fs.isdir(self.final) and not self._fs.ls(self.final, detail=False))

    def size(self, path: str) -> int:
        """In bytes; -1 when nothing is there."""
        with told(path, "look for"):
            try:
                return int(os.stat(path).st_size if self.is_local else self._fs.info(path)["size"] or 0)
            except (FileNotFoundError, NotADirectoryError):
                return -1

    def names(self) -> list[str]:
        """Of what is among the parts."""
        return sorted(self.sizes())

    def sizes(self) -> dict[str, int]:
        """Name -> bytes of what is among the parts."""
        with told(self.parts_url, "list"):
            try:
                self._fs.invalidate_cache()
                found = self._fs.ls(self.parts, detail=True)
            except FileNotFoundError:
                return {}
            return {str(info["name"]).rstrip("/").rpartition("/")[2]: int(info["size"] or 0) for info in found}

    def read(self, path: str) -> bytes:
        with told(path, "read"):
            return Path(path).read_bytes() if self.is_local else bytes(self._fs.cat_file(path))

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Makes one file among the parts, whole or not at all, on the disk when this returns."""
        path = f"{self.parts}/{name}"
        with told(path, "write"):
            if not self.is_local:
                self._fs.makedirs(self.parts, exist_ok=True)
                self._fs.pipe_file(path, bytes(data))
                return
            os.makedirs(self.parts, exist_ok=True)
            with open(f"{path}.tmp", "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(f"{path}.tmp", path)
            _sync(self.parts)

    @contextmanager
    def written(self, name: str) -> Iterator[Any]:
        """A stream to a file among the parts that is too large for memory; it is on the disk when the block ends well."""
        path = f"{self.parts}/{name}"
        with told(path, "write"):
            if self.is_local:
                half = f"{path}.{secrets.token_hex(4)}.tmp"  # who lost the run without knowing may write there still
                try:
                    with open(half, "wb") as file:
                        yield file
                        file.flush()
                        os.fsync(file.fileno())
                    os.rename(half, path)
                finally:
                    with suppress(OSError):
                        os.unlink(half)
            else:
                with self._fs.open(path, "wb") as file:
                    yield file

    def rename_written(self, path: str, name: str) -> None:
        """Makes a local file one among the parts, once it is on the disk."""
        _sync(path)
        os.replace(path, f"{self.parts}/{name}")

    def finish(self, name: str, *, replace: bool) -> None:
        """Gives a file among the parts the final name. Raises RunError when that is taken, unless `replace`."""
        path = f"{self.parts}/{name}"
        with told(self.url, "write"):
            if not self.is_local:
                self._refuse_taken(replace)
                self._fs.mv(path, self.final)
                return
            if not replace:
                try:
                    os.link(path, self.final)  # the one call that never replaces
                except FileExistsError:
                    raise self._taken() from None
                except OSError:  # a file system without hard links
                    self._refuse_taken(replace)
            os.replace(path, self.final)
            if os.path.exists(path):  # two names of one file: rename leaves both
                os.unlink(path)
            _sync(os.path.dirname(self.final))

    def finish_folder(self, folder: str, *, replace: bool) -> None:
        """Gives a folder among the parts the final name, in one step. Local places only; elsewhere files are `copy`-ed."""
        with told(self.url, "write"):
            if replace and os.path.isdir(self.final):
                old = f"{self.parts}/replaced"
                shutil.rmtree(old, ignore_errors=True)
                os.rename(self.final, old)
            try:
                os.rename(f"{self.parts}/{folder}", self.final)
            except OSError as error:
                if self.is_there():
                    raise self._taken() from None
                raise error
            _sync(os.path.dirname(self.final))
            shutil.rmtree(f"{self.parts}/replaced", ignore_errors=True)

    def make_way(self, *, replace: bool) -> None:
        """Before files are copied to a folder of a store: what stands there goes, or is told to be in the way."""
        self._refuse_taken(replace)
        with told(self.url, "replace"):
            if self._fs.exists(self.final):
                self._fs.rm(self.final, recursive=True)

    def copy(self, name: str, to: str) -> None:
        """A file among the parts, under another path; by a second name of the same file where that can be."""
        path = f"{self.parts}/{name}"
        with told(to, "write"):
            if not self.is_local:
                self._fs.makedirs(to.rpartition("/")[0], exist_ok=True)
                self._fs.cp_file(path, to)
                return
            os.makedirs(os.path.dirname(to), exist_ok=True)
            try:
                os.link(path, to)
            except OSError:
                shutil.copyfile(path, to)

    def remove(self, name: str) -> None:
        """A file or folder among the parts; it may be gone already."""
        path = f"{self.parts}/{name}"
        with told(path, "remove"):
            try:
                self._fs.rm(path, recursive=True)
            except FileNotFoundError:
                pass

    def clear(self) -> None:
        """Removes all that is among the parts, and their folder."""
        with told(self.parts_url, "remove"):
            self._fs.invalidate_cache()
            if self._fs.exists(self.parts):
                self._fs.rm(self.parts, recursive=True)

    def check_room(self, wanted: int) -> None:
        """Raises RunError when the disk has less than that many bytes left, where that can be known."""
        if not self.is_local:
            return
        free = shutil.disk_usage(self.parts).free
        if free < wanted:
            raise RunError(
                f"output {self.url} needs {wanted >> 20} MB to be put together, and {free >> 20} MB are free; free some space, "
                "then resume the run: what is done stays done"
            )

    def _refuse_taken(self, replace: bool) -> None:
        if not replace and self.is_there():
            raise self._taken()

    def _taken(self) -> RunError:
        return RunError(
            f"output {self.url} came to exist while the run worked; move it away, then resume the run: what is done stays done"
        )


def _sync(path: str) -> None:
    """Of a folder: a rename is on the disk when its folder is."""
    handle = os.open(path or ".", os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
