"""A slot whose supervisord was killed ends within seconds: nobody would restart it, and its engine would hold the device.

The kernel sends SIGTERM when the parent dies. Only for slots that supervisord started: one started in a terminal lives on.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping

PR_SET_PDEATHSIG = 1
UNIX = "unix://"


class Parent:
    """The process that started this one. Make it in the main thread."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._is_supervisor = environ.get("SUPERVISOR_ENABLED") == "1"
        self._pid = os.getppid()
        if self._is_supervisor:
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            # It may have died before the signal was asked for: then our parent is another already, and its socket is dead.
            if not _is_answered(environ.get("SUPERVISOR_SERVER_URL", "")):
                self._pid = 0

    @property
    def is_gone(self) -> bool:
        """Whether the supervisor died; the kernel gives its children another parent before it tells them."""
        return self._is_supervisor and os.getppid() != self._pid


class Countdown:
    """Calls `end` so many seconds after `start`, whatever the main thread does then. Lives as long as its process."""

    def __init__(self, seconds: float, end: Callable[[], None]) -> None:
        self._seconds = seconds
        self._end = end
        self._read, self._write = os.pipe2(os.O_CLOEXEC)
        # Made beforehand: a signal handler that starts a thread, or sets an event, waits for locks its own thread may hold.
        threading.Thread(target=self._run, name="countdown", daemon=True).start()

    def start(self) -> None:
        """Safe in a signal handler."""
        os.write(self._write, b"!")

    def _run(self) -> None:
        os.read(self._read, 1)
        time.sleep(self._seconds)
        self._end()


def _is_answered(url: str) -> bool:
    """Whether someone listens there; a URL that is none of a socket file counts as answered."""
    if not url.startswith(UNIX):
        return True
    with socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(1.0)
        try:
            asked.connect(url.removeprefix(UNIX))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True
