"""Says, every ten seconds, what a command waits for and until when: silence at 3 a.m. is taken for a hang. Waits for nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SAY_EVERY_S = 10.0


@contextmanager
def telling(say: Callable[[str], None], what: str, *, most_s: float, then: str) -> Iterator[None]:
    """While the block runs: "waiting for WHAT, until 14:03:20 at most; THEN"."""
    until = time.strftime("%H:%M:%S", time.localtime(time.time() + most_s))
    is_over = threading.Event()

    def tell() -> None:
        while not is_over.wait(SAY_EVERY_S):
            say(f"waiting for {what}, until {until} at most; {then}")

    thread = threading.Thread(target=tell, name="patience", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
