"""Live traffic for a test: a thread that submits and waits, and keeps every failure."""

from __future__ import annotations

import threading
from types import TracebackType

import numpy as np

from broker import roster
from broker.connection import Link
from producer import Producer

ROWS = [np.full(64, value, np.float32) for value in np.linspace(-1, 1, 20)]


class Load(threading.Thread):
    """Twenty requests of model mlp at a time, the next when they are answered. Entered it runs, left it has ended.

    With a link of its own it also counts the looks at which no slot was ready.
    """

    def __init__(self, url: str, *, deadline_s: float = 20.0, beside: Link | None = None) -> None:
        super().__init__(name="load", daemon=True)
        self.answered = 0
        self.failures: list[Exception] = []
        self.unserved = 0
        self._watcher = (
            threading.Thread(target=self._watch, args=(beside,), daemon=True) if beside is not None else None
        )
        self._url = url
        self._deadline_s = deadline_s
        self._is_over = threading.Event()

    def __enter__(self) -> Load:
        self.start()
        if self._watcher is not None:
            self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        self._is_over.set()
        self.join(30)
        if self._watcher is not None:
            self._watcher.join(30)

    def run(self) -> None:
        with Producer(self._url) as producer:
            while not self._is_over.is_set():
                try:
                    handles = producer.submit_many("mlp", ROWS, deadline_s=self._deadline_s)
                    self.answered += len({handle.result(self._deadline_s).id for handle in handles})
                except Exception as error:  # noqa: BLE001 - every failure is what the test is about
                    self.failures.append(error)

    def _watch(self, beside: Link) -> None:
        while not self._is_over.wait(0.005):
            self.unserved += not roster.ready(beside, "mlp")
