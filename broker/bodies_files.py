"""Bodies as files in one folder of the host, a tmpfs best: the quickest way past Redis where producers and slots share a machine.

Which folder it is says a mark in it, a random token that whoever comes first writes: a slot of another machine, whose folder
of the same path is another one, sees by the token that a body cannot be there. Whoever may write to the folder decides what
models see and reads what they are sent, so it belongs to this user or to root, and at most this user's own group shares it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress

from broker.bodies import Body, check_name
from broker.bodies_recycled import Recycled
from broker.errors import StoreError

MARK = ".penstock"
PART = ".part"  # a body being written
OWN, SHARED = 0o600, 0o640  # modes of files, the second where the folder is our group's too
_TOKEN = re.compile(rb"[0-9a-f]{16}")
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe that somebody put there holds nobody up
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class FileStore:
    """The files of one folder, which is made if it is missing, for its owner alone."""

    def __init__(self, folder: str) -> None:
        self.location = self._folder = folder
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            self._mode = self._checked(os.stat(folder))
            self.token = self._mark()
            self._recycled = Recycled(folder)
        except OSError as error:
            raise self._refused(error) from None

    def write(self, bodies: Mapping[str, Body]) -> None:
        try:
            for name, body in bodies.items():
                try:
                    self._write(self._path(name), body)
                except OSError as error:
                    if error.errno not in _NO_ROOM:
                        raise
                    self.tidy()  # what is kept may be what there is no room for
                    self._write(self._path(name), body)
        except OSError as error:
            with suppress(OSError):
                for name in bodies:
                    self._unlink(name)
            raise self._refused(error) from None

    def read(self, name: str) -> bytes | None:
        try:
            fd = os.open(self._path(name), os.O_RDONLY | _OPEN)
            with open(fd, "rb", buffering=0) as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused(error) from None

    def remove(self, names: Iterable[str]) -> None:
        try:
            for name in names:
                self._unlink(name)
        except OSError as error:
            raise self._refused(error) from None

    def recycle(self, names: Iterable[str]) -> None:
        try:
            for name in names:
                self._recycled.keep(self._path(name))
                self._unlink(name)
        except OSError as error:
            raise self._refused(error) from None

    def tidy(self) -> None:
        self._recycled.tidy()

    def _write(self, path: str, body: Body) -> None:
        part = path + PART
        fd = self._recycled.take(part, _OPEN)
        if fd < 0:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _OPEN, OWN)
        with open(fd, "wb", buffering=0) as file:
            os.fchmod(fd, self._mode)
            left = memoryview(body)
            while left:
                left = left[file.write(left) :]
            file.truncate()
        os.rename(part, path)

    def _unlink(self, name: str) -> None:
        """Also what was half written."""
        for path in (self._path(name), self._path(name) + PART):
            with suppress(FileNotFoundError):
                os.unlink(path)

    def _path(self, name: str) -> str:
        return f"{self._folder}/{check_name(name)}"

    def _checked(self, found: os.stat_result) -> int:
        """The mode for files of a folder that is as it must be. Raises StoreError for one that others may write to."""
        if found.st_uid not in (os.geteuid(), 0):
            fault = f"belongs to another user (uid {found.st_uid})"
        elif found.st_mode & stat.S_IWOTH:
            fault = "may be written to by everyone"
        elif found.st_mode & stat.S_IWGRP and found.st_gid != os.getegid():
            fault = f"may be written to by a group that is not this user's own (gid {found.st_gid})"
        else:
            return SHARED if found.st_mode & stat.S_IWGRP else OWN
        raise StoreError(
            f"large bodies stand in the folder {self._folder}, which {fault}; name a folder inside it that is not there yet as "
            "queue.bodies, or give this one to this user alone (chown, chmod 700)"
        )

    def _mark(self) -> str:
        """The folder's token; a new one where there is none, in one step, so that all see the same."""
        mark = f"{self._folder}/{MARK}"
        if not os.path.lexists(mark):
            fresh = f"{mark}-{secrets.token_hex(8)}"
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, OWN)
            with open(fd, "wb") as file:
                os.fchmod(fd, self._mode)
                file.write(secrets.token_hex(8).encode())
            with suppress(FileExistsError):
                os.link(fresh, mark)
            os.unlink(fresh)
        with open(os.open(mark, os.O_RDONLY | _OPEN), "rb") as file:
            token = file.read(100).strip()
        if not _TOKEN.fullmatch(token):
            raise StoreError(f"{mark} is no mark of ours; empty the folder, or name another one as queue.bodies")
        return token.decode()

    def _refused(self, error: OSError) -> StoreError:
        return StoreError(
            f"large bodies stand in the folder {self._folder}, which cannot be used here ({error.strerror}); give this user "
            'the folder, or set queue.bodies = "redis" in pool.toml'
        )
