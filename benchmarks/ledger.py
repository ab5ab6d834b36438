"""Counts how often each job's result is written, as the Redis server itself tells it: nothing of the pool's own accounting.

Every end of a job writes its result once, in a key of its own or into a list among its neighbours'. The server announces each
write (keyspace events), and a second one would be announced too. Only for a server of our own: it switches those events on.
"""

from __future__ import annotations

import threading
from collections import Counter

from broker import bunches, keys
from broker.connection import LOST, Link

CHANNELS = "__keyevent@0__:set", "__keyevent@0__:rpush"
SILENCE_S = 600.0


class Ledger:
    """Listens from `start` to `stop`; `writes` is job id -> results written. Raises what the server says."""

    def __init__(self, url: str, model: str) -> None:
        self._prefix = keys.result(model, "").encode()
        self._lists_prefix = keys.results(model, "").encode()
        self._last = self._prefix + b"end-of-ledger"
        self._link = Link(url, read_timeout_s=SILENCE_S)
        self._orders = Link(url)
        self._reads = Link(url)  # the listener's
        self._read: Counter[bytes] = Counter()  # elements of each list
        self._thread = threading.Thread(target=self._listen, name="ledger", daemon=True)
        self.writes: Counter[str] = Counter()
        self.is_broken = False  # the server hung up: what was counted is not all there was

    def start(self) -> None:
        """From here on every write counts."""
        self._orders.connect()
        self._orders.call("CONFIG", "SET", "notify-keyspace-events", "E$l")
        self._reads.connect()
        self._link.connect()
        self._link.call("SUBSCRIBE", *CHANNELS)
        self._link.read()  # the second one's: nothing comes between the answers of one command
        self._thread.start()

    def stop(self) -> None:
        """Returns when every write before this call was counted: a last one of our own says so."""
        self._orders.call("SET", self._last, "", "PX", 1000)
        self._thread.join(30)
        self.is_broken |= self._thread.is_alive()
        for link in (self._orders, self._reads, self._link):
            link.close()

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
                elif key.startswith(self._lists_prefix):
                    new = self._reads.call("LRANGE", key, self._read[key], -1)
                    self._read[key] += len(new)
                    self.writes.update(job_id for job_id, _, _ in bunches.read(new))
        except LOST:
            self.is_broken = True
