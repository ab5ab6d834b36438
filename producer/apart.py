"""One model's large bodies as a producer treats them: which data is too large to travel in its job, and the store it goes to.

Bodies in Redis are written by commands in front of the job (talks), and removed there by submit.lua when it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from numpy import ndarray

from broker.bodies import REDIS, Body, is_folder
from broker.bodies_store import BodyStore, open_store
from broker.errors import InvalidInput, StoreError
from broker.spec import Limits

if TYPE_CHECKING:
    from producer.tickets import Parcel


class Apart:
    """What one published spec says of large bodies. The store is opened by the first of them; threads may share it."""

    def __init__(self, *, is_wanted: bool = True) -> None:
        self.is_wanted = is_wanted
        self.limit_bytes = 0  # data above it stands apart; 0: none does
        self._location = REDIS
        self._store: BodyStore | None = None

    def learned(self, limits: Limits) -> Apart:
        """As the limits say that were published now; what was packed under those before keeps its own. The store stays open if
        it is the same."""
        new = Apart(is_wanted=self.is_wanted)
        new.limit_bytes = limits.large_bytes if self.is_wanted else 0
        new._location = limits.bodies
        if limits.bodies == self._location:
            new._store = self._store
        return new

    def renew(self) -> None:
        """In a forked child: what a store's plug-in had open is the parent's."""
        self._store = None

    @property
    def is_redis(self) -> bool:
        return self._location == REDIS

    @property
    def is_folder(self) -> bool:
        return is_folder(self._location)

    @property
    def token(self) -> str:
        """The store's. Raises StoreError when it cannot be used from here."""
        if self.is_redis:
            return REDIS
        return self._opened().token

    def is_large(self, data: Any) -> bool:
        """Whether a job's data, an array or bytes, must stand apart."""
        return (data.nbytes if type(data) is ndarray else len(data)) > self.limit_bytes

    def write(self, bodies: Mapping[str, Body]) -> None:
        """Writes bodies to a store outside Redis, before their jobs are queued. Raises StoreError."""
        if not self.is_redis:
            self._opened().write(bodies)

    def discard(self, parcel: Parcel) -> None:
        """Removes what was written for jobs that an answer refused, or found to be queued before. What cannot be removed now is
        found by the slots later."""
        names = [*parcel.bodies, *parcel.spare]
        parcel.spare.clear()
        if names and not self.is_redis:
            with suppress(StoreError):
                self._opened().remove(names)

    def _opened(self) -> BodyStore:
        if self._store is None:
            try:
                self._store = open_store(self._location)
            except StoreError as error:
                raise StoreError(f"{error}; large_apart=False sends such data in the job") from None
        assert self._store is not None
        return self._store


def check_apart(large_apart: object) -> bool:
    """Raises InvalidInput for what is neither True nor False."""
    if not isinstance(large_apart, bool):
        raise InvalidInput(f"large_apart={large_apart!r} must be True or False")
    return large_apart
