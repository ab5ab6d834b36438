"""var/pool.lock: commands that change the pool hold it, so that two operators cannot pull in two directions."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from broker import embedded
from broker.errors import SupervisorError
from broker.settings import Settings
from operators.daemon import prepare_folders

LOCK_WAIT_S = 5.0
POLL_S = 0.1


@contextmanager
def changing(settings: Settings) -> Iterator[None]:
    """Holds var/pool.lock. Raises SupervisorError when another command holds it for longer than a moment."""
    prepare_folders(settings)
    path = settings.var / "pool.lock"
    deadline = time.monotonic() + LOCK_WAIT_S
    while (lock := embedded.take_lock(path)) is None:
        if time.monotonic() > deadline:
            holder = path.read_text().strip() or "unknown"
            raise SupervisorError(f"another penstock command (pid {holder}) is changing this pool; try again after it")
        time.sleep(POLL_S)
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
