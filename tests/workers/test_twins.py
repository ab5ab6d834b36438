"""Jobs of two lanes under one entry id, as two submits in one millisecond get it: what becomes of one is nothing to the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs

from broker import keys
from broker.bodies_store import open_store
from broker.claimed import MOST_MARKS
from broker.connection import Link
from broker.ends import Fault
from broker.lease import lane_and_entry, lease_of
from broker.messages import Job, Status
from broker.queue import Queue
from broker.settings_tables import SlotSettings
from tests.wait import wait_until
from tests.workers.apart import submit as submit_apart
from tests.workers.fakes import KILLS, MODEL, RAISES, SPEC, Client, Doubler, LateEngine, RunningSlot, first
from tests.workers.test_batcher import batcher, ids, job
from tests.workers.test_given_back import Holder
from workers import halves, readers
from workers.ahead import Ahead
from workers.batch import Batch, Piece
from workers.beat import Beat
from workers.board import Board
from workers.faults import fault_by
from workers.forgotten import Forgotten

HIGH, NORMAL = 0, 1
NO_SWEEP_S = 60.0  # a lease so long that no look for lost leases mends what went wrong within the test


@pytest.fixture
def holder(redis_url: str, link: Link) -> Iterator[Holder]:
    holder = Holder(redis_url)
    yield holder
    holder.link.close()


def join(link: Link) -> bytes:
    """Makes twins of the last two jobs in the normal lane: the later one goes to the high lane, under the id of the first."""
    high, normal, _ = Queue(MODEL, "x").lanes
    (second, fields), (entry, _) = link.call("XREVRANGE", normal, "+", "-", "COUNT", 2)
    link.call_all([("XDEL", normal, second), ("XADD", high, entry, *fields)])
    return bytes(entry)


def owners(link: Link) -> list[list[tuple[bytes, int]]]:
    """(consumer, deliveries) of what is leased, of the high and of the normal lane."""
    pending = [("XPENDING", lane, keys.GROUP, "-", "+", 100) for lane in Queue(MODEL, "x").lanes[:2]]
    return [[(lease[1], lease[3]) for lease in reply] for reply in link.call_all(pending)]


def claim_twins(client: Client, link: Link, holder: Holder) -> tuple[Job, Job]:
    """In hand of the holder: the job of the high lane, and that of the normal one."""
    client.submit(5.0, 1.0)
    join(link)

    def look() -> bool:
        holder.talk(room_rows=8, is_busy=False)
        return len(holder.jobs) >= 2

    wait_until(look, "both are claimed")
    high, normal = sorted(holder.jobs, key=lambda one: one.lane)
    assert (high.lane, normal.lane, high.entry) == (HIGH, NORMAL, normal.entry)
    return high, normal


def rows_of(value: float, rows: int) -> np.ndarray:
    return np.full((rows, 4), value, "float32")


# --- the name -----------------------------------------------------------------------------------


def test_a_lease_is_named_after_its_lane_and_its_entry(client: Client, link: Link, holder: Holder) -> None:
    assert lane_and_entry(lease_of(2, b"1700000000000-12")) == (2, b"1700000000000-12")
    assert len({lease_of(lane, b"5-0") for lane in range(3)}) == 3
    for one in claim_twins(client, link, holder):
        assert lane_and_entry(one.lease) == (one.lane, one.entry)
        assert fault_by(one, "model_error", "its own", now_ms=0.0).lease == one.lease


# --- through a whole slot -----------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 40, 200])
def test_twins_are_both_answered_each_with_its_own_rows(redis_url: str, client: Client, link: Link, rows: int) -> None:
    slot = RunningSlot(redis_url, engine=LateEngine(SPEC, Doubler()), lease_s=NO_SWEEP_S)
    twins = client.submit(rows_of(5.0, rows), rows_of(1.0, rows))
    join(link)
    with capture_logs() as logs, slot:
        outcomes = client.wait(twins)
        wait_until(lambda: not (slot.board.held or slot.slot._leases.claimed_ms), "nothing is in hand")
    values = [np.unique(np.frombuffer(one.data, "float32")).tolist() for one in outcomes]
    assert (values, [one.rows for one in outcomes]) == ([[10.0], [2.0]], [rows, rows])
    assert (client.left(), client.counters()["done"]) == ((0, 0), 2)
    assert "leases we never saw" not in {log["event"] for log in logs}


@pytest.mark.parametrize("place", ["redis", "folder"])
def test_twins_with_large_bodies_get_each_its_own(
    redis_url: str, client: Client, link: Link, tmp_path: Path, place: str
) -> None:
    store = open_store(place if place == "redis" else str(tmp_path / "b"))
    slot = RunningSlot(redis_url, store=store, lease_s=NO_SWEEP_S)
    twins = submit_apart(client, 5.0, 1.0, store=store)
    join(link)
    with slot:
        assert [first(one) for one in client.wait(twins)] == [10.0, 2.0]
    assert (client.left(), client.counters()["bytes"]) == ((0, 0), 0)


def test_twins_whose_store_never_answers_are_both_given_up(
    redis_url: str, client: Client, link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, go = open_store(str(tmp_path / "b")), threading.Event()
    assert store is not None
    monkeypatch.setattr(store, "read", lambda name: bool(go.wait(20)) and None)
    monkeypatch.setattr(readers, "PATIENCE_S", 0.1)
    slot = RunningSlot(redis_url, store=store, lease_s=NO_SWEEP_S)
    twins = submit_apart(client, 5.0, 1.0, store=store)
    join(link)
    try:
        with slot:
            outcomes = client.wait(twins)
        assert [one.note["reason"] for one in outcomes] == ["store_away"] * 2
    finally:
        go.set()


@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize("is_high", [True, False], ids=["high", "normal"])
def test_a_twin_that_fails_takes_nothing_from_the_other(
    redis_url: str, client: Client, link: Link, is_high: bool, rows: int
) -> None:
    slot = RunningSlot(redis_url, engine=LateEngine(SPEC, Doubler()), lease_s=NO_SWEEP_S)
    good, bad = rows_of(5.0, rows), rows_of(RAISES, rows)
    twins = client.submit(*([good, bad] if is_high else [bad, good]))
    join(link)
    with slot:
        outcomes = client.wait(twins)
    done, failed = outcomes if is_high else reversed(outcomes)
    assert (failed.status, done.status, done.rows, first(done)) == (Status.FAILED, Status.DONE, rows, 10.0)
    assert client.left() == (0, 0)


class Stage:
    """A slot whose engine runs the twin of the high lane, a whole batch, and has not answered; the other is in hand."""

    def __init__(self, redis_url: str, client: Client, link: Link, *, running: float) -> None:
        backend, begun, self.go = Doubler(), threading.Event(), threading.Event()

        def before() -> None:
            begun.set()
            assert self.go.wait(15)

        backend.before = before
        self.slot = RunningSlot(redis_url, engine=LateEngine(SPEC, backend), lease_s=NO_SWEEP_S)
        self.waiting, self.running = client.submit(1.0, rows_of(running, 64))
        join(link)
        self.slot.thread.start()
        assert begun.wait(10)
        wait_until(lambda: sum(map(len, owners(link))) == 2, "both are leased")


def test_a_slot_that_leaves_settles_the_twin_that_runs_and_returns_the_other(
    redis_url: str, client: Client, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ahead, "may_send", lambda *_, **__: False)
    stage = Stage(redis_url, client, link, running=5.0)
    stage.slot.slot.leave()
    wait_until(lambda: owners(link)[NORMAL] == [(b"returned", 1)], "the other is returned")
    stage.go.set()
    stage.slot.__exit__()
    (outcome,) = client.wait([stage.running])
    assert (outcome.rows, first(outcome)) == (64, 10.0)
    assert owners(link) == [[], [(b"returned", 1)]]


@pytest.mark.parametrize("is_ahead", [True, False], ids=["sent ahead", "in hand"])
def test_when_the_engine_dies_only_the_twin_it_ran_is_marked(
    redis_url: str, client: Client, link: Link, monkeypatch: pytest.MonkeyPatch, is_ahead: bool
) -> None:
    monkeypatch.setattr(Ahead, "may_send", lambda *_, **__: is_ahead)
    stage = Stage(redis_url, client, link, running=KILLS)
    stage.go.set()
    stage.slot.__exit__()
    assert owners(link) == [[(b"returned", 2)], [(b"returned", 1)]]


# --- leases alone -------------------------------------------------------------------------------


def test_a_twin_that_is_given_back_leaves_the_other_in_hand(client: Client, link: Link, holder: Holder) -> None:
    high, normal = claim_twins(client, link, holder)
    holder.leases.give_back([high], marks=1)
    assert holder.leases._board.held == {normal.lease}
    assert set(holder.leases.claimed_ms) == {normal.lease}
    holder.until_quiet()
    assert owners(link) == [[(b"returned", 2)], [(b"h/0.x", 1)]]


@pytest.mark.parametrize("ends", [HIGH, NORMAL])
def test_a_twin_that_ended_leaves_the_other_in_hand(client: Client, link: Link, holder: Holder, ends: int) -> None:
    twins = claim_twins(client, link, holder)
    over, other = twins[ends], twins[1 - ends]
    fault = fault_by(over, "model_error", "its own", now_ms=0.0)
    assert holder.leases.talk([], [fault], rooms=(0, 0, 0), is_busy=True, block_ms=0)
    holder.until_quiet()
    assert holder.leases._board.held == set(holder.leases.claimed_ms) == {other.lease}
    assert holder.leases.forgotten.is_held(other.lease, other.id)
    assert owners(link)[other.lane] == [(b"h/0.x", 1)]


def test_an_entry_that_cannot_be_read_takes_nothing_from_its_twin(client: Client, link: Link, holder: Holder) -> None:
    client.submit(1.0)
    (job,) = holder.claim()
    link.call("XADD", holder.queue.lanes[HIGH], job.entry, "b", client.blob(5.0, "cli-2")[:-1])

    def look() -> bool:
        holder.talk(room_rows=8, is_busy=False)
        return "cli-2" in client.outcomes or bool(client.link.call("LLEN", client.intake.reply_key))

    wait_until(look, "it is dead")
    holder.until_quiet()
    assert client.wait(["cli-2"])[0].status is Status.DEAD
    assert holder.leases._board.held == set(holder.leases.claimed_ms) == {job.lease}


def test_a_twin_whose_claim_was_lost_goes_back_though_the_other_is_in_hand(
    client: Client, link: Link, holder: Holder
) -> None:
    client.submit(1.0)
    (job,) = holder.claim()
    high = holder.queue.lanes[HIGH]
    link.call("XADD", high, job.entry, "b", client.blob(5.0, "cli-2"))
    link.call("XREADGROUP", "GROUP", keys.GROUP, holder.queue.consumer, "STREAMS", high, ">")
    holder.until_quiet()
    wait_until(lambda: holder.talk() or owners(link)[HIGH] == [(b"returned", 1)], "it is returned")
    assert owners(link)[NORMAL] == [(b"h/0.x", 1)]


def test_a_ghost_goes_back_though_its_twin_is_on_its_way_back(client: Client, link: Link, holder: Holder) -> None:
    high, normal = claim_twins(client, link, holder)
    holder.leases._board.held.clear()
    holder.leases._owed.add(holder.queue.give_back([], marks=1), lambda reply: None, frozenset([high.lease]))
    for command, handler in holder.leases._ghosts.pairs():
        handler(link.call(*command))
    holder.leases.hear()
    assert owners(link) == [[(b"h/0.x", 1)], [(b"returned", 1)]]
    assert normal.lease not in holder.leases._owed.returning()


def test_of_twins_that_one_more_mark_ends_the_second_goes_back_and_the_first_stays(
    client: Client, link: Link, holder: Holder
) -> None:
    # given: returned, and claimed one after the other
    client.submit(5.0, 1.0)
    entry = join(link)
    for lane in holder.queue.lanes[:2]:
        link.call("XREADGROUP", "GROUP", keys.GROUP, "h/9.x", "STREAMS", lane, ">")
        link.call("XCLAIM", lane, keys.GROUP, keys.RETURNED, 0, entry, "RETRYCOUNT", MOST_MARKS, "JUSTID")
    (high,) = holder.claim()
    claimed = holder.queue.read_claim(link.call(*holder.queue.claim(8)))
    (normal,) = claimed.jobs
    assert (high.lane, normal.lane) == (HIGH, NORMAL)
    # when
    holder.leases._take(claimed)
    # then
    assert holder.jobs == [high]
    assert holder.leases._board.held == {high.lease}
    holder.leases.give_back([high], marks=0)
    holder.leases._take(claimed)
    assert holder.jobs == [high, normal], "nothing else stands at its end now"


def test_a_twin_that_redis_forgot_is_not_settled_and_the_other_is() -> None:
    # given
    forgotten = Forgotten()
    forgotten.took(lease_of(HIGH, b"5-0"), "cli-1")
    forgotten.took(lease_of(NORMAL, b"5-0"), "cli-2")
    held = [lease_of(HIGH, b"5-0"), lease_of(NORMAL, b"5-0")]
    # when
    assert forgotten.compare(held, [lease_of(NORMAL, b"5-0")]) == held[:1]
    # then
    faults = [Fault(lane, b"5-0", 1, f"cli-{lane + 1}", 0, "failed", 0, "test", b"") for lane in (HIGH, NORMAL)]
    assert forgotten.faults(faults) == faults[1:]


def test_the_beat_renews_the_leases_of_both(redis_url: str, client: Client, link: Link, holder: Holder) -> None:
    high, normal = claim_twins(client, link, holder)
    for lane in holder.queue.lanes[:2]:
        link.call("XCLAIM", lane, keys.GROUP, "h/0.x", 0, high.entry, "IDLE", 50_000, "JUSTID")
    board = Board(name="h/0", incarnation="x", pid=1)
    board.model, board.held = MODEL, {high.lease, normal.lease}
    beside = Link(redis_url)
    beside.connect()
    Beat(board=board, queue=holder.queue, link=beside, settings=SlotSettings(), clock=lambda: 0.0).tick(0.0)
    beside.close()
    replies = link.call_all([("XPENDING", lane, keys.GROUP, "-", "+", 1) for lane in holder.queue.lanes[:2]])
    assert all(idle_ms < 50_000 for ((_, _, idle_ms, _),) in replies)


# --- in batches ------------------------------------------------------------------------------------


def test_a_batch_without_one_twin_keeps_the_other() -> None:
    high = job(lane=HIGH)
    normal = msgspec.structs.replace(high, lane=NORMAL, lease=lease_of(NORMAL, high.entry))
    both = Batch([Piece(high, 0, 1), Piece(normal, 0, 1)], 2, 2, ())
    left = halves.without(both, high.lease, lambda rows: rows)
    assert left is not None
    assert [piece.job for piece in left.pieces] == [normal]


def test_a_twin_too_late_for_its_deadline_leaves_the_other_in_hand() -> None:
    parts = batcher()
    other = job(lane=NORMAL)
    late = msgspec.structs.replace(
        job(lane=HIGH), entry=other.entry, lease=lease_of(HIGH, other.entry), deadline_ms=1000
    )  # fmt: skip
    parts.add([late, other])
    assert parts.hopeless(2000.0) == [late]
    assert ids(parts.pack()) == [other.id]
