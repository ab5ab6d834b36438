"""Bodies as files in one folder of the host, a tmpfs best: the quickest way past Redis where producers and slots share a machine.

Which folder it is says a mark in it, a random token that whoever comes first writes: a slot of another machine, whose folder
of the same path is another one, sees by the token that a body cannot be there.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from broker.errors import StoreError

MARK = ".penstock"
PART = ".part"  # a body being written
MODE = 0o660  # less the umask: a folder that an operator shares among users keeps its rules
_TOKEN = re.compile(r"[0-9a-f]{16}")


class FileStore:
    """The files of one folder, which is made if it is missing, for its owner alone."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            self.token = self._mark()
        except OSError as error:
            raise self._refused(error) from None

    def write(self, bodies: Mapping[str, bytes]) -> None:
        try:
            for name, body in bodies.items():
                path = self._path(name)
                part = path + PART
                fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
                with open(fd, "wb", buffering=0) as file:
                    left = memoryview(body)
                    while left:
                        left = left[file.write(left) :]
                os.rename(part, path)
        except OSError as error:
            self.remove(bodies)
            raise self._refused(error) from None

    def read(self, name: str) -> bytes | None:
        try:
            fd = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(fd, "rb", buffering=0) as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused(error) from None

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            for path in (self._path(name), self._path(name) + PART):
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    pass
                except OSError as error:
                    raise self._refused(error) from None

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _mark(self) -> str:
        """The folder's token; a new one where there is none, in one step, so that all see the same."""
        mark = Path(self._folder, MARK)
        if not mark.exists():
            fresh = mark.with_name(f"{MARK}-{secrets.token_hex(8)}")
            fresh.write_text(secrets.token_hex(8))
            fresh.chmod(0o644)
            with suppress(FileExistsError):
                os.link(fresh, mark)
            fresh.unlink()
        token = mark.read_text().strip()
        if not _TOKEN.fullmatch(token):
            raise StoreError(f"{mark} is no mark of ours; empty the folder, or name another one as queue.bodies")
        return token

    def _refused(self, error: OSError) -> StoreError:
        return StoreError(
            f"large bodies stand in the folder {self._folder}, which cannot be used here ({error.strerror}); give this user "
            'the folder, or set queue.bodies = "redis" in pool.toml'
        )
