"""The doctor's look at where large bodies stand: one small body is written, read and removed, from this process.

Not here: what the store is good for (broker/bodies_store), whether slots see the same one (its mark says so to them).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from broker.bodies import REDIS, is_folder
from broker.bodies_store import open_store
from broker.errors import StoreError
from broker.settings import Settings
from operators.finding import Finding

PATIENCE_S = 15.0  # for all of it: a folder of another machine, or a URL, may hang
BODY = b"penstock doctor"


def large_bodies(settings: Settings) -> Iterator[Finding]:
    """The store of large bodies can be used as a slot and a producer use it. Raises StoreError."""
    where = settings.queue.bodies
    if where == REDIS:
        yield Finding("ok", "large bodies stand in Redis")
        return
    came: list[str | Exception] = []
    thread = threading.Thread(target=_note, args=(where, came), name="store", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    if not came:
        text = f"large bodies stand at {where}, which did not answer within {PATIENCE_S:g} s; see that it does"
        raise StoreError(text)
    if isinstance(came[0], Exception):
        raise came[0]
    yield Finding("ok", f"large bodies stand at {where}: {came[0]}")


def _note(where: str, came: list[str | Exception]) -> None:
    try:
        came.append(_try(where))
    except Exception as error:  # noqa: BLE001 - a thread's edge: raised again where the check waits
        came.append(error)


def _try(where: str) -> str:
    """What could be done there."""
    if is_folder(where) and not os.path.lexists(where):
        _could_make(Path(where))
        return "the folder is not there yet; the first slot or producer makes it"
    store = open_store(where)
    assert store is not None, "only Redis has none"
    name = f"doctor{secrets.token_hex(6)}-1"
    try:
        store.write({name: BODY})
        found = store.read(name)
    except StoreError:
        with contextlib.suppress(StoreError):
            store.remove([name])
        raise
    store.remove([name])
    if found != BODY:
        raise StoreError(f"large bodies stand at {where}, which gives back other bytes than were written; find out why")
    return "one was written, read and removed"


def _could_make(folder: Path) -> None:
    """A folder that is not there belongs to whoever makes it, and this may be another user's command: it is not made."""
    # os.path.exists, unlike Path.exists, raises nothing for what lies in a folder closed to us.
    above = next(one for one in folder.parents if os.path.exists(one))
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".penstock-", dir=above))
    except OSError as error:
        raise StoreError(
            f"large bodies stand in the folder {folder}, which is not there and cannot be made in {above} ({error.strerror}); "
            'give this user the folder, or set queue.bodies = "redis" in pool.toml'
        ) from None
