"""A paused slot on a real Redis: what it leaves alone, what it still finishes, how it rests, and that it wakes at once."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from broker import keys
from broker.connection import Link
from broker.queue import Queue
from tests.wait import wait_until
from tests.workers.fakes import MODEL, SPEC, Client, Doubler, LateEngine, RunningSlot, first
from workers.exits import Exit
from workers.pacing import Look
from workers.upkeep import Upkeep

ALL = frozenset({0, 1, 2})
LOW = frozenset({2})
NONE: frozenset[int] = frozenset()


def pause(slot: RunningSlot, lanes: frozenset[int]) -> None:
    """As the beat tells it; the loop has taken it when this returns, and Redis has seen a blocked read hung up."""
    slot.board.pause(lanes)
    wait_until(lambda: slot.slot._leases.claimer.claims.paused == lanes, "the loop heeds the pause")
    client = Link(slot.link.url)
    client.connect()
    for _ in range(3):  # rounds of its event loop
        client.call("PING")
    client.close()


def turns(slot: RunningSlot, count: int = 5) -> None:
    """Lets the loop go round some times: what it does not do in them it does not do."""
    for _ in range(count):
        before = slot.board.progress_at
        slot.board.wake()
        wait_until(lambda: slot.board.progress_at > before, "the loop goes round")  # noqa: B023 - called in this turn


class HeldEngine(LateEngine):
    """Answers when it is let go."""

    def __init__(self) -> None:
        backend = Doubler()
        self.runs, self.may_end = threading.Event(), threading.Event()

        def before() -> None:
            self.runs.set()
            self.may_end.wait(10)

        backend.before = before
        super().__init__(SPEC, backend)


def test_a_paused_slot_claims_nothing_stays_ready_and_serves_as_soon_as_it_is_resumed(
    redis_url: str, client: Client
) -> None:
    with RunningSlot(redis_url, block_ms=3900) as slot:
        client.wait(client.submit(1.0))
        pause(slot, ALL)
        ids = [client.submit(2.0, lane=lane)[0] for lane in (1, 2, 3)]
        turns(slot)
        assert client.left() == (3, 0)
        assert (slot.board.is_ready, slot.board.state) == (True, "ready")
        pause(slot, NONE)
        assert [first(one) for one in client.wait(ids)] == [4.0] * 3
    assert client.left() == (0, 0)


def test_a_pause_ends_a_blocked_read_that_would_still_take_a_job(redis_url: str, client: Client) -> None:
    with RunningSlot(redis_url, block_ms=3900) as slot:
        wait_until(lambda: slot.slot._leases.claimer.is_blocked, "it waits in Redis")
        pause(slot, LOW)
        ids = client.submit(1.0, lane=3)
        client.wait(client.submit(1.0, lane=1))
        turns(slot)
        assert client.left() == (1, 0)
        wait_until(lambda: slot.slot._leases.claimer.is_blocked, "it waits for the open lanes")
        pause(slot, NONE)
        client.wait(ids, within_s=3)  # a read that began before the resume would wait longer, and over other lanes


@pytest.mark.parametrize("forward_s", [0.0, 0.006])  # quick, and long enough for a look before each batch
@pytest.mark.parametrize("paused", [{0}, {1}, {2}, {0, 1}, {0, 2}, {1, 2}])
def test_with_lanes_paused_the_others_are_served_whole_and_the_paused_ones_later(
    redis_url: str, client: Client, paused: set[int], forward_s: float
) -> None:
    backend = Doubler()
    backend.before = lambda: time.sleep(forward_s)
    slot = RunningSlot(redis_url, backend=backend, engine=LateEngine(SPEC, backend))
    slot.board.pause(frozenset(paused))
    by_lane = [client.submit(*range(150), lane=lane) for lane in (1, 2, 3)]
    with slot:
        client.wait([one for lane in {0, 1, 2} - paused for one in by_lane[lane]])
        turns(slot)
        assert client.left() == (150 * len(paused), 0)
        assert client.counters()["done"] == 150 * (3 - len(paused))
        pause(slot, NONE)
        client.wait([one for lane in paused for one in by_lane[lane]])
    assert client.left() == (0, 0)


def test_a_look_for_higher_lanes_that_are_paused_asks_nothing_and_waits_for_no_answer(redis_url: str) -> None:
    claimer = RunningSlot(redis_url).slot._leases.claimer
    claimer.pause(frozenset({0}))
    sent = claimer.pairs((64, 64, 64), 0, is_busy=False, is_settling=False, is_quiet=True, batch_rows=64, look=Look(1))
    assert (sent, claimer.is_claiming) == ([], False)


def test_jobs_in_hand_are_finished_and_nothing_is_claimed_behind_them(redis_url: str, client: Client) -> None:
    # given one batch in the engine, one in hand, and more in Redis
    engine = HeldEngine()
    slot = RunningSlot(redis_url, engine=engine)
    ids = client.submit(*range(250)) + client.submit(*range(50))
    with slot:
        assert engine.runs.wait(5)
        wait_until(lambda: len(slot.board.held) > 64, "it has read ahead")
        # when
        pause(slot, ALL)
        held = len(slot.board.held)
        engine.may_end.set()
        # then
        client.wait(ids[:held])
        wait_until(lambda: client.counters()["done"] == held, "what it held is done")
        turns(slot)
        assert client.left() == (300 - held, 0)
        pause(slot, NONE)
        client.wait(ids)


def test_a_lease_returned_to_a_paused_lane_waits_for_the_resume(redis_url: str, client: Client, link: Link) -> None:
    with RunningSlot(redis_url) as slot:
        pause(slot, LOW)
        (one,) = client.submit(1.0, lane=3)
        other = Queue(MODEL, "h/9.x")
        (job,) = other.read_claim(link.call(*other.claim(1))).jobs
        link.call(*other.give_back([(job.lane, job.entry)], marks=0))
        for _ in range(3):  # each waits for the claim script, which looks for returned leases, or comes after it
            slot.slot._leases.claimer._look_at = 0.0
            client.wait(client.submit(2.0, lane=1))
        assert client.left() == (1, 1)
        pause(slot, NONE)
        client.wait([one])


def test_a_paused_slot_rests_without_turns_or_commands(
    redis_url: str, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    turn = Upkeep.turn

    def counted(self: Upkeep, now: float) -> None:
        nonlocal count
        count += 1
        turn(self, now)

    def commands() -> int:
        lines = link.call("INFO", "stats").decode().splitlines()
        return next(int(line.partition(":")[2]) for line in lines if line.startswith("total_commands_processed"))

    monkeypatch.setattr(Upkeep, "turn", counted)
    with RunningSlot(redis_url) as slot:
        pause(slot, ALL)
        wait_until(lambda: not slot.slot._leases.wire.under_way, "it has told Redis all it had to")
        before, sent, began = count, commands(), time.monotonic()
        wait_until(lambda: time.monotonic() > began + 0.6, "two such waits might have passed")
        assert count - before <= 5
        assert commands() - sent <= 2  # ours


def test_a_paused_slot_drains_at_once_when_asked(redis_url: str) -> None:
    with RunningSlot(redis_url, block_ms=3900) as slot:
        pause(slot, ALL)
        slot.slot.leave()
        assert slot.join().exit is Exit.DRAINED


def test_a_paused_slot_still_retires_and_returns_nothing_it_has_finished(redis_url: str, client: Client) -> None:
    engine = HeldEngine()
    slot = RunningSlot(redis_url, engine=engine, retire={"max_jobs": 1})
    ids = client.submit(1.0)
    with slot:
        assert engine.runs.wait(5)
        pause(slot, ALL)
        more = client.submit(2.0)
        engine.may_end.set()
        assert slot.join().exit is Exit.MAX_JOBS
    client.wait(ids)
    assert more[0] not in client.outcomes
    assert client.left() == (1, 0)


def test_a_paused_slot_whose_connection_broke_serves_after_the_resume(redis_url: str, client: Client) -> None:
    with RunningSlot(redis_url) as slot:
        pause(slot, ALL)
        ids = client.submit(1.0)
        turns(slot)
        with socket.socket(fileno=os.dup(slot.link.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)
        pause(slot, NONE)
        client.wait(ids)


def test_a_job_whose_deadline_passed_meanwhile_ends_as_expired_at_the_resume(redis_url: str, client: Client) -> None:
    with RunningSlot(redis_url) as slot:
        pause(slot, ALL)
        ids = client.submit(1.0, deadline_ms=1)
        stream = keys.lane(MODEL, "normal")
        wait_until(
            lambda: (
                int(client.link.call("TIME")[0]) * 1000 > int(client.link.call("XRANGE", stream, "-", "+")[0][0][:13])
            ),
            "the deadline has passed",
        )
        pause(slot, NONE)
        (outcome,) = client.wait(ids)
        assert outcome.status.name == "EXPIRED"
    assert slot.backend.batches == []
