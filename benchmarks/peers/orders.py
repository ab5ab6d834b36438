"""The client process of a peer: reads orders, one JSON line each, measures, and writes one line of figures back.

Clocks run here, in the process that submits and receives, as they do for Penstock and the bare loop.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Protocol

import numpy as np

from benchmarks.peers.model import FEATURES


class Client(Protocol):
    """What a peer can be asked for. Every method returns when all answers have come, and raises when one does not."""

    def flood(self, rows: list[bytes]) -> None:
        """All rows, as fast as this peer takes them."""

    def one(self, row: bytes) -> None:
        """One job in flight."""

    def in_flight(self, rows: list[bytes], width: int) -> list[float]:
        """All rows, `width` of them in flight; seconds each took."""


def serve(**clients: Client) -> None:
    """Until stdin ends; an order names its client."""
    for client in clients.values():
        client.one(_rows(1)[0])  # the worker is up and warm before the first order is taken
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        rows = _rows(order["jobs"])
        client = clients[order["client"]]
        took_s: list[float] = []
        began = time.perf_counter()
        if order["what"] == "flood":
            client.flood(rows)
        elif order["what"] == "one":
            for row in rows:
                since = time.perf_counter()
                client.one(row)
                took_s.append(time.perf_counter() - since)
        else:
            took_s = client.in_flight(rows, order["width"])
        total_s = time.perf_counter() - began
        print(json.dumps({"seconds": total_s, "took_ms": [one * 1e3 for one in took_s]}), flush=True)


def _rows(count: int) -> list[bytes]:
    x = np.random.default_rng(1).normal(size=(count, FEATURES)).astype(np.float32)
    return [row.tobytes() for row in x]
