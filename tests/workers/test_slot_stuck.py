"""States in which a slot once stood still for ever: each ends by itself."""

from __future__ import annotations

import time
from collections import Counter
from itertools import product
from typing import Any

import pytest

from broker.queue import Queue
from tests.wait import wait_until
from tests.workers.fakes import SPEC, Client, Doubler, LateEngine, RunningSlot
from workers import batcher
from workers.backends import Arrays
from workers.claimer import Claimer
from workers.claims import Rooms
from workers.exchange import Timed
from workers.pacing import Look
from workers.timetable import Timetable

LINEAR_MS = {1: 3.0, 2: 4.0, 4: 6.0, 8: 10.0, 16: 18.0, 32: 34.0, 64: 66.0}
KNEE_MS = {1: 3.0, 2: 5.0, 4: 6.0, 8: 60.0, 16: 120.0, 32: 240.0, 64: 480.0}


class Takes(Doubler):
    """A backend whose forwards take what a table says."""

    def __init__(self, ms: dict[int, float]) -> None:
        super().__init__()
        self._ms = ms

    def run(self, inputs: Arrays) -> Arrays:
        time.sleep(self._ms[len(inputs["x"])] / 1e3)
        return super().run(inputs)


def slot_of(url: str, ms: dict[int, float], believed: dict[int, float] | None = None, **settings: Any) -> RunningSlot:
    table = Timetable([Timed(rows, (), one) for rows, one in (believed or ms).items()], floor_s=60.0, factor=20.0)
    backend = Takes(ms)
    return RunningSlot(url, backend=backend, engine=LateEngine(SPEC, backend), timetable=table, **settings)


@pytest.mark.parametrize(
    ("rooms", "is_busy", "is_due", "full"),
    [
        ((high, normal, low), is_busy, is_due, full)
        for high, normal, low, (is_busy, is_due), full in product(
            (0, 1, 7, 64, 1000),
            (0, 7, 1000),
            (-5, 0, 3, 1000),
            ((False, False), (True, False), (True, True)),
            ((), (0,), (2,), (0, 1, 2)),
        )
    ],
)
def test_a_claim_that_is_noted_as_under_way_has_an_answer_that_ends_it(
    rooms: Rooms, is_busy: bool, is_due: bool, full: tuple[int, ...]
) -> None:
    now = [100.0]
    claimer = Claimer(
        queue=Queue("m", "c"), take=lambda claimed: None, give_back=lambda jobs, *, marks: None, set_time=lambda ms: None,
        is_refused=lambda reply: True, clock=lambda: now[0],
    )  # fmt: skip
    for lane in full:
        claimer.claims.note_lane(lane, 1, 1)
    for turn, look in enumerate([None] * 20 + [Look(None), Look(1), Look(2)]):
        now[0] += 0.05
        pairs = claimer.pairs(
            rooms, 50, is_busy=is_busy and look is None, is_settling=bool(turn % 2), is_quiet=True, batch_rows=64,
            is_due=is_due, look=look,
        )  # fmt: skip
        for _, handler in pairs:
            handler(ValueError("an answer, whatever it brings"))
        assert not claimer.is_claiming
        assert not claimer.is_blocked


def test_a_flood_of_the_low_lane_is_worked_off(redis_url: str, client: Client) -> None:
    slot = slot_of(redis_url, LINEAR_MS, low_batch_ms=6.0, block_ms=200)
    ids = [one for _ in range(2) for one in client.submit(*([1.0] * 120), lane=3)]
    with slot:
        client.wait(ids)
        client.wait(client.submit(5.0, lane=1))


def test_a_burst_that_fills_the_room_at_once_is_run_at_once(redis_url: str, client: Client) -> None:
    # given a slot whose batches are small, and slow enough that it holds but one
    slot = slot_of(redis_url, KNEE_MS, block_ms=1000, read_ahead_max_ms=0.5)
    with slot:
        for _ in range(10):
            client.wait(client.submit(1.0))
        wait_until(lambda: slot.slot._leases.claimer.is_blocked, "it waits for jobs")
        assert slot.slot._pacing.batch_rows() < 64
        # when a burst comes
        client.wait(client.submit(*([1.0] * 8)))


def test_a_wrong_time_of_a_large_size_is_found_out(
    redis_url: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a model whose forwards all take the same, and a slot that believes large ones to be slow
    monkeypatch.setattr(batcher, "FULL_EVERY", 8)
    wrong = {rows: 3.0 if rows <= 4 else 400.0 for rows in KNEE_MS}
    slot = slot_of(redis_url, dict.fromkeys(KNEE_MS, 3.0), believed=wrong)
    ids = [one for _ in range(4) for one in client.submit(*([1.0] * 250))]
    with slot:
        client.wait(ids)
    sizes = Counter(len(batch) for batch in slot.backend.batches)
    assert max(sizes) > 4, sizes
