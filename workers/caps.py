"""How many rows a batch may have where the device ran out of memory: learned caps per shape bucket. Pure; the clock is passed in.

After an out-of-memory the cap is the largest row bucket below. It is doubled every REPROBE_MS, so that memory another process
held does not cost throughput for ever. A ladder is the halving of one batch; what a single row explains teaches nothing
about the others, so its steps are taken back.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

import msgspec

from broker.caps import Cap

Dims = tuple[int, ...]
REPROBE_MS = 300_000


class Change(msgspec.Struct, frozen=True):
    """What is to be remembered of one shape bucket; None forgets."""

    dims: Dims
    cap: Cap | None


class Caps:
    """Caps of one model on one device. Times are Redis' ms."""

    def __init__(self, row_buckets: tuple[int, ...], known: Mapping[Dims, Cap] | None = None) -> None:
        """`known` is what other slots and earlier lives learned; what is out of date has no effect."""
        self._buckets = row_buckets
        self._known = dict(known or {})
        self._before: dict[Dims, Cap | None] = {}  # by shapes of the ladder that is going on

    @property
    def are_known(self) -> bool:
        """Whether anything is bounded."""
        return bool(self._known)

    def limit(self, dims: Dims, now_ms: float) -> int:
        """The rows a batch may have now."""
        cap = self._known.get(dims)
        if cap is None:
            return self._buckets[-1]
        probes = int(max(0.0, now_ms - cap.at_ms) // REPROBE_MS)
        at = bisect_right(self._buckets, cap.rows << min(probes, 32))
        return self._buckets[max(0, at - 1)]

    def lower(self, dims: Dims, bucket: int, now_ms: float) -> int:
        """`bucket` padded rows ran out of memory. The rows to go on with; 0 when there is no smaller bucket."""
        at = self._buckets.index(bucket)
        cap = self._known.get(dims)
        self._before.setdefault(dims, cap)
        if at == 0:
            return 0
        rows = min(self._buckets[at - 1], self.limit(dims, now_ms))
        self._known[dims] = Cap(rows, round(now_ms))
        return self._buckets[at - 1]

    def pardon(self, dims: Dims) -> None:
        """A row that does not fit by itself explains this ladder: the cap is what it was before."""
        before = self._before.get(dims)
        if before is None:
            self._known.pop(dims, None)
        else:
            self._known[dims] = before

    def settle(self) -> list[Change]:
        """The ladder is over: what it taught."""
        changes = [
            Change(dims, self._known.get(dims))
            for dims, before in self._before.items()
            if self._known.get(dims) != before
        ]
        self._before = {}
        return changes
