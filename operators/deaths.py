"""Sees a slot die the moment the kernel knows, and wakes supervisord, which left alone restarts it up to a second later.

supervisord reaps a program when its pipes close, but starts it again only on its next turn: after a second, or when somebody
speaks to it. Hastens, decides nothing: without this thread everything happens just the same, later.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable, Iterable

import structlog

from broker.errors import SupervisorError

LOOK_S = 1.0

log = structlog.get_logger()


class Deaths(threading.Thread):
    """Watches processes that others start; `wake` is called for each death, and may raise SupervisorError."""

    def __init__(self, *, wake: Callable[[], object]) -> None:
        super().__init__(name="deaths", daemon=True)
        self._wake = wake
        self._mutex = threading.Lock()  # guards the two below
        self._files: dict[int, int] = {}  # pid -> descriptor that becomes readable when it ends
        self._poller = select.epoll()  # unlike poll, it heeds what is added while another thread waits in it
        self._is_over = False
        self._is_warned = False

    def watch(self, pids: Iterable[int]) -> None:
        """These are alive now; any others are forgotten."""
        with self._mutex:
            wanted = set(pids)
            for pid in self._files.keys() - wanted:
                self._forget(pid)
            for pid in wanted - self._files.keys():
                with contextlib.suppress(OSError):  # gone already: the round after the next look tells
                    self._files[pid] = os.pidfd_open(pid)
                    self._poller.register(self._files[pid], select.EPOLLIN)

    def run(self) -> None:
        while not self._is_over:
            ended = {fd for fd, _ in self._poller.poll(LOOK_S)}
            with self._mutex:
                dead = [pid for pid, fd in self._files.items() if fd in ended]
                for pid in dead:
                    self._forget(pid)
            if dead:
                self._hasten()

    def stop(self) -> None:
        """Ends the thread and waits for it."""
        self._is_over = True
        if self.is_alive():
            self.join(2 * LOOK_S)
        self.watch(())
        self._poller.close()

    def _hasten(self) -> None:
        try:
            self._wake()
        except SupervisorError:
            pass  # away: the agent's rounds say so
        except Exception:  # the thread's edge: without it every restart would be late from now on
            if not self._is_warned:
                log.exception("supervisord not woken", next="restarts come up to a second late; this is said once")
            self._is_warned = True

    def _forget(self, pid: int) -> None:
        fd = self._files.pop(pid)
        self._poller.unregister(fd)
        os.close(fd)
