"""Where bodies outside Redis stand: what a store can do, and which one a location means. Not the Redis store: its bodies
are written, read and removed by commands beside the job's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from broker.bodies import REDIS, Body, is_folder


class BodyStore(Protocol):
    """Bodies by name. Calls block and may be made from any thread; each raises StoreError when the store cannot be used."""

    token: str
    location: str  # as it was opened

    def write(self, bodies: Mapping[str, Body]) -> None:
        """Writes bodies; none is seen half written under its name. What is there under that name is replaced."""

    def read(self, name: str) -> bytes | None:
        """A body, None where there is none."""

    def remove(self, names: Iterable[str]) -> None:
        """Removes bodies; one that is not there is no error."""

    def recycle(self, names: Iterable[str]) -> None:
        """As `remove`, but a few of their files may be kept until `tidy`, to be written over."""

    def tidy(self) -> None:
        """Removes what is kept so."""


def open_store(location: str) -> BodyStore | None:
    """The store of a location, None for Redis. Raises StoreError when it cannot be used from here."""
    if location == REDIS:
        return None
    if is_folder(location):
        from broker.bodies_files import FileStore

        return FileStore(location)
    from broker.bodies_urls import UrlStore

    return UrlStore(location)
