"""A slot whose hands are full of low jobs, with more behind them: it leaves Redis alone until its forward ends."""

from __future__ import annotations

import threading
import time

import pytest

from broker.connection import Link
from tests.wait import wait_until
from tests.workers.fakes import SPEC, Client, Doubler, LateEngine, RunningSlot
from tests.workers.test_batcher import table

HIGH, LOW = 1, 3


def commands(link: Link) -> int:
    lines = link.call("INFO", "stats").decode().splitlines()
    return next(int(line.partition(":")[2]) for line in lines if line.startswith("total_commands_processed"))


@pytest.mark.parametrize("paused", [frozenset[int](), frozenset({0, 1})])
def test_a_low_backlog_it_has_no_room_for_is_not_asked_about_all_the_time(
    redis_url: str, client: Client, link: Link, paused: frozenset[int]
) -> None:
    # given low batches that are a quarter of the others, for which they might wait
    backend, runs, may_end = Doubler(), threading.Event(), threading.Event()

    def before() -> None:
        if len(backend.batches) == 6:
            runs.set()
            may_end.wait(10)

    backend.before = before
    times = table((1, 5.0), (16, 18.0), (32, 24.0), (64, 32.0))
    slot = RunningSlot(redis_url, backend=backend, engine=LateEngine(SPEC, backend), timetable=times, low_batch_ms=20.0)
    slot.board.pause(paused)
    ids = client.submit(*range(250), lane=LOW)
    with slot:
        try:
            # when one runs for as long as we like
            assert runs.wait(5)
            wait_until(
                lambda: slot.slot._pacing.rooms(slot.slot._runner.rows, 0.0)[2] <= 0, "it has read ahead what it may"
            )
            assert slot.slot._leases.claimer.claims.has_backlog
            before, began = commands(link), time.monotonic()
            wait_until(lambda: time.monotonic() > began + 0.3, "it might have asked a thousand times")
            # then
            assert commands(link) - before < 500
        finally:
            may_end.set()
        client.wait(ids)
        (one,) = client.wait(client.submit(1.0, lane=HIGH)) if not paused else client.wait(ids[:1])
        assert one.status.name == "DONE"
