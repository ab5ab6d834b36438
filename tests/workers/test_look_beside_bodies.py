"""A look that asks nothing, while a body that stands apart is on its way: neither the engine nor finished results wait for that body."""

from __future__ import annotations

import threading
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from broker.bodies_store import open_store
from tests.wait import wait_until
from tests.workers.apart import submit
from tests.workers.fakes import SPEC, Client, LateEngine, RunningSlot
from tests.workers.test_fair_slots import Sleeper, known
from workers.slot import LOOK_AGAIN_MS, Slot


def idle_waits(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits (ms) that the loop begins with jobs in hand, a free engine and nothing asked of Redis; filled as they come."""
    found: list[float] = []
    wait = slot._doorbell.wait

    def noted(fds: tuple[int, ...], wait_ms: float) -> Collection[int]:
        if slot._batcher.rows and slot._runner.is_idle and not slot._leases.wire.under_way and wait_ms > LOOK_AGAIN_MS:
            found.append(wait_ms)
        return wait(fds, wait_ms)

    monkeypatch.setattr(slot._doorbell, "wait", noted)
    return found


def test_low_batches_follow_at_once_where_nothing_can_be_asked_while_a_body_is_late(
    redis_url: str, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_store(str(tmp_path / "bodies"))
    assert folder is not None
    go, read = threading.Event(), folder.read
    monkeypatch.setattr(folder, "read", lambda name: read(name) if go.wait(20) else None)
    backend = Sleeper(10.0)
    running = RunningSlot(
        redis_url, engine=LateEngine(SPEC, backend), timetable=known(20.0), low_batch_ms=0.0, store=folder
    )
    try:
        with running:
            client.wait(client.submit(0.0, lane=1))
            # given a body that does not come, and both higher lanes are paused
            submit(client, 1.0, store=folder)
            wait_until(lambda: bool(running.slot._bodies.waiting), "its body is awaited")
            running.board.pause(frozenset({0, 1}))
            wait_until(lambda: running.slot._leases.claimer.claims.paused == {0, 1}, "the loop heeds the pause")
            waits = idle_waits(running.slot, monkeypatch)
            client.wait(client.submit(*[np.ones((64, 4), "float32")] * 20, lane=3))
            go.set()
    finally:
        go.set()
    assert waits == [], "nothing is under way, and the engine and a full batch are there"
