"""Counts how often each job's result is written, as the Redis server itself tells it: nothing of the pool's own accounting.

Every end of a job writes its result key once; the server announces each write (keyspace events), and a second one would be
announced too. Only for a server of our own: it switches those events on.
"""

from __future__ import annotations

import threading
from collections import Counter

from broker import keys
from broker.connection import LOST, Link

CHANNEL = "__keyevent@0__:set"
SILENCE_S = 600.0


class Ledger:
    """Listens from `start` to `stop`; `writes` is job id -> results written. Raises what the server says."""

    def __init__(self, url: str, model: str) -> None:
        self._prefix = keys.result(model, "").encode()
        self._last = self._prefix + b"end-of-ledger"
        self._link = Link(url, read_timeout_s=SILENCE_S)
        self._orders = Link(url)
        self._thread = threading.Thread(target=self._listen, name="ledger", daemon=True)
        self.writes: Counter[str] = Counter()
        self.is_broken = False  # the server hung up: what was counted is not all there was

    def start(self) -> None:
        """From here on every write counts."""
        self._orders.connect()
        self._orders.call("CONFIG", "SET", "notify-keyspace-events", "E$")
        self._link.connect()
        self._link.call("SUBSCRIBE", CHANNEL)
        self._thread.start()

    def stop(self) -> None:
        """Returns when every write before this call was counted: a last one of our own says so."""
        self._orders.call("SET", self._last, "", "PX", 1000)
        self._thread.join(30)
        self.is_broken |= self._thread.is_alive()
        self._orders.close()
        self._link.close()

    def twice(self) -> int:
        """Writes that came after a job's first."""
        return sum(count - 1 for count in self.writes.values())

    def _listen(self) -> None:
        try:
            while True:
                key = self._link.read()[2]
                if key == self._last:
                    return
                if key.startswith(self._prefix):
                    self.writes[key[len(self._prefix) :].decode()] += 1
        except LOST:
            self.is_broken = True
