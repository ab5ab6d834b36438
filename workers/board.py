"""What a slot shows of itself: one object the loop writes and the beat reads. Plain attributes, no lock.

Every field is replaced whole, so that a reader in another thread sees the old or the new value, never half of one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import quantiles


class Board:
    """State, counters and leases of one incarnation. Bytes, milliseconds and Redis times as the names say."""

    def __init__(self, *, name: str, incarnation: str, pid: int) -> None:
        self.name = name
        self.incarnation = incarnation
        self.pid = pid
        self.model = ""
        self.version = ""
        self.device = ""
        self.state = "starting"
        self.reason = ""
        self.engine_pid = 0
        self.jobs = 0
        self.rows = 0
        self.batches = 0
        self.padded_rows = 0
        self.host_bytes = 0
        self.host_baseline_bytes = 0
        self.device_bytes: int | None = None
        self.device_baseline_bytes: int | None = None
        self.load_s = 0.0
        self.since_ms = 0  # Redis time of being ready
        self.is_ready = False
        self.is_failing = False
        self.frees_place = False
        self.progress_at = 0.0  # monotonic; the loop stamps it, the beat stops renewing leases when it is old
        self.totals: deque[float] = deque(maxlen=512)  # total ms of the first job of each batch
        self.held: set[bytes] = set()  # every lease held
        self.paused: frozenset[int] = frozenset()  # lanes that must not be claimed from
        self.wake: Callable[[], None] = lambda: None  # ends the loop's wait

    def pause(self, lanes: frozenset[int]) -> None:
        """Tells the loop which lanes are paused now; the beat calls it each time, whether that changed or not."""
        if lanes != self.paused:
            self.paused = lanes
            self.wake()

    def fields(self) -> dict[str, str | int | float]:
        """What status reads; a value that is not known is the empty string, never 0."""
        totals = list(self.totals)
        centiles = quantiles(totals, n=100) if len(totals) > 1 else [0.0] * 99
        return {
            "name": self.name,
            "incarnation": self.incarnation,
            "pid": self.pid,
            "engine_pid": self.engine_pid,
            "model": self.model,
            "version": self.version,
            "device": self.device,
            "state": self.state,
            "reason": self.reason,
            "jobs": self.jobs,
            "rows": self.rows,
            "batches": self.batches,
            "mean_batch": round(self.rows / self.batches, 2) if self.batches else 0,
            "padding": round(1 - self.rows / self.padded_rows, 4) if self.padded_rows else 0,
            "held": len(self.held),
            "host_bytes": self.host_bytes,
            "host_baseline_bytes": self.host_baseline_bytes,
            "device_bytes": "" if self.device_bytes is None else self.device_bytes,
            "device_baseline_bytes": "" if self.device_baseline_bytes is None else self.device_baseline_bytes,
            "since_ms": self.since_ms,
            "silent_ms": round((time.monotonic() - self.progress_at) * 1000) if self.progress_at else 0,
            "load_s": round(self.load_s, 3),
            "p50_ms": round(centiles[49], 3),
            "p99_ms": round(centiles[98], 3),
        }
