"""The slot's second thread, ticked by hand with a clock of the test's own, on a real Redis."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from broker import keys, roster, spec
from broker.connection import Link
from broker.lease import lease_of
from broker.queue import Queue
from broker.settings_tables import SlotSettings
from broker.spec import Limits
from tests.workers.fakes import MODEL, SPEC, Client
from workers.beat import Beat
from workers.board import Board

Make = Callable[..., Beat]


@pytest.fixture
def board() -> Board:
    board = Board(name="h/0", incarnation="x", pid=os.getpid())
    board.model, board.state, board.is_ready = MODEL, "ready", True
    return board


@pytest.fixture
def make(redis_url: str, link: Link, board: Board) -> Iterator[Make]:
    queue = Queue(MODEL, "h/0.x")
    queue.ensure_groups(link)
    spec.publish(link, SPEC, Limits())
    links = []

    def make(**options: Any) -> Beat:
        own = Link(redis_url)
        own.connect()
        links.append(own)
        settings = SlotSettings(lease_s=6.0, hang_floor_s=20.0)
        return Beat(
            **{"board": board, "queue": queue, "link": own, "settings": settings, "clock": lambda: 0.0, **options}
        )

    yield make
    for own in links:
        own.close()


def test_a_tick_announces_the_slot_and_says_that_it_is_ready(make: Make, board: Board, link: Link) -> None:
    make().tick(1.0)
    assert roster.slots(link)["h/0"]["state"] == "ready"
    assert roster.ready(link, MODEL) == ["h/0"]
    assert board.since_ms > 0


def test_a_loop_that_makes_no_progress_is_not_ready_and_its_leases_are_not_renewed(
    make: Make, board: Board, redis_url: str, link: Link
) -> None:
    client = Client(redis_url)
    client.submit(1.0)
    lane = Queue(MODEL, "x").lanes[1]
    ((_, ((entry, _fields),)),) = link.call(
        "XREADGROUP", "GROUP", keys.GROUP, "h/0.x", "COUNT", 1, "STREAMS", lane, ">"
    )
    board.held.add(lease_of(1, entry))
    link.call("XCLAIM", lane, keys.GROUP, "h/0.x", 0, entry, "IDLE", 5000, "JUSTID")
    beat = make()
    board.progress_at = 1.0

    beat.tick(30.0)
    ((_, _, idle_ms, _),) = link.call("XPENDING", lane, keys.GROUP, "-", "+", 1)
    assert roster.ready(link, MODEL) == []
    assert idle_ms >= 5000

    board.progress_at = 40.0
    beat.tick(41.0)
    ((_, consumer, idle_ms, _),) = link.call("XPENDING", lane, keys.GROUP, "-", "+", 1)
    assert roster.ready(link, MODEL) == ["h/0"]
    assert (consumer, idle_ms < 5000) == (b"h/0.x", True)
    client.link.close()


def test_a_loop_that_hangs_for_good_ends_the_process(make: Make, board: Board) -> None:
    ended: list[bool] = []
    beat = make(on_stuck=lambda: ended.append(True))
    board.progress_at = 1.0
    beat.watch(20.0)
    assert ended == []
    beat.watch(28.0)
    assert ended == [True]


def test_a_loop_that_hangs_while_redis_is_away_ends_the_process_too(board: Board) -> None:
    ended = threading.Event()
    beat = Beat(
        board=board, queue=Queue(MODEL, "h/0.x"), link=Link("unix:///nowhere/redis.sock"),
        settings=SlotSettings(lease_s=6.0, hang_floor_s=20.0), on_stuck=ended.set, clock=lambda: 100.0,
    )  # fmt: skip
    board.progress_at = 1.0
    beat.start()
    assert ended.wait(5)
    beat.stop()


def test_a_process_that_was_stopped_is_not_taken_for_a_loop_that_hangs(make: Make, board: Board) -> None:
    ended: list[bool] = []
    beat = make(on_stuck=lambda: ended.append(True))
    board.progress_at = 100.0
    times = iter([100.0, 700.0])  # a rest of ten minutes: SIGSTOP, then SIGCONT
    beat._clock = lambda: next(times)
    beat._soon.set()
    beat._rest()
    beat.watch(701.0)
    assert ended == []
    beat.watch(727.0)
    assert ended == [True], "it was awake all the time since then, and the loop still stands"


def test_a_beat_tells_for_how_long_the_loop_was_silent(make: Make, board: Board, link: Link) -> None:
    board.progress_at = 20.0
    make().tick(23.5)
    seconds, _ = link.call("TIME")
    state = roster.slots(link)["h/0"]
    assert state["silent_ms"] == "3500"
    assert 0 <= int(seconds) * 1000 - int(state["beat_ms"]) + 1000 < 10_000


def test_the_retiring_place_is_freed_once(make: Make, board: Board, link: Link) -> None:
    board.frees_place = True
    link.call("ZADD", keys.retiring(MODEL), 1e15, "h/0")
    beat = make()
    beat.tick(1.0)
    assert link.call("ZCARD", keys.retiring(MODEL)) == 0
    link.call("ZADD", keys.retiring(MODEL), 1e15, "h/0")
    beat.tick(3.0)
    assert link.call("ZCARD", keys.retiring(MODEL)) == 1, "the next retirement's own place stays"


def test_a_sweep_that_found_something_is_told(make: Make, redis_url: str, link: Link) -> None:
    client = Client(redis_url)
    client.submit(1.0)
    link.call("HINCRBY", keys.counters(MODEL), "bytes", 77)
    with capture_logs() as said:
        make().tick(10.0)
    assert [(one["event"], one["bytes_corrected"]) for one in said] == [("swept", -77)]
    client.link.close()


def test_after_redis_was_away_nobody_sweeps_before_all_had_time_to_renew(
    make: Make, board: Board, redis_url: str, link: Link
) -> None:
    """Redis was down for longer than a lease: every lease looks lost, and no slot is dead."""
    # given: another slot's lease, not renewed for 60 s
    client = Client(redis_url)
    client.submit(1.0)
    lane = Queue(MODEL, "x").lanes[1]
    ((_, ((entry, _fields),)),) = link.call(
        "XREADGROUP", "GROUP", keys.GROUP, "h/1.x", "COUNT", 1, "STREAMS", lane, ">"
    )
    link.call("XCLAIM", lane, keys.GROUP, "h/1.x", 0, entry, "IDLE", 60_000, "JUSTID")

    def owner() -> bytes:
        ((_, consumer, _, _),) = link.call("XPENDING", lane, keys.GROUP, "-", "+", 1)
        return bytes(consumer)

    beat = make()
    board.progress_at = 100.0
    # when: a sweep is overdue, and the beat is connected again
    beat.came_back(100.0)
    beat.tick(100.1)
    board.progress_at = 105.0
    beat.tick(105.9)
    assert owner() == b"h/1.x"
    # then: a lease later it sweeps
    board.progress_at = 106.0
    beat.tick(106.1)
    assert owner() == b"returned"
    client.link.close()


def test_a_sweep_that_redis_gets_late_returns_no_lease(make: Make, board: Board, redis_url: str, link: Link) -> None:
    # given: a lease of a dead slot, and Redis' time heard when our clock said 100
    Client(redis_url).submit(1.0)
    lane, at = Queue(MODEL, "x").lanes[1], [100.0]
    link.call("XREADGROUP", "GROUP", keys.GROUP, "h/9.x", "STREAMS", lane, ">")
    beat = make(clock=lambda: at[0])
    beat.tick(1.0)

    def sweep(now: float) -> bytes:
        (lease,) = link.call("XPENDING", lane, keys.GROUP, "-", "+", 1)
        link.call("XCLAIM", lane, keys.GROUP, "h/9.x", 0, lease[0], "IDLE", 20_000, "JUSTID")
        beat.tick(now)
        return bytes(link.call("XPENDING", lane, keys.GROUP, "-", "+", 1)[0][1])

    # when: a sweep is sent at 95, and stands in Redis' socket for five seconds
    at[0] = 95.0
    assert sweep(110.0) == b"h/9.x"
    at[0] = 100.0
    assert sweep(120.0) == b"returned"


def test_after_an_answer_that_took_long_nobody_is_swept_before_all_could_renew(
    make: Make, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = [5.0]
    beat = make(clock=lambda: at[0])
    call_all = beat._link.call_all

    def slow(commands: Any) -> Any:
        at[0] = 25.0
        return call_all(commands)

    monkeypatch.setattr(beat._link, "call_all", slow)
    beat.tick(20.0)
    assert (beat._next_sweep, beat._next_renewal) == (31.0, 0.0), "a lease later; its own are renewed at once"


def test_a_slot_that_has_been_ready_for_a_while_is_called_steady_once(make: Make, board: Board) -> None:
    called: list[float] = []
    beat = make(on_steady=lambda: called.append(0))
    for now in (1.0, 10.9):
        beat.watch(now)
    assert not called
    for now in (11.0, 30.0):
        beat.watch(now)
    assert called == [0]
