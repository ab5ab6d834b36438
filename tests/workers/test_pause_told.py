"""How a slot learns of a pause: its beat reads it, wakes the loop and ends late jobs meanwhile; a new life asks before its first claim."""

from __future__ import annotations

import threading

import msgspec
import pytest

from broker import keys, paused, roster
from broker.connection import Link
from broker.messages import LANES
from broker.paused import Pause
from tests.broker.actors import now_ms
from tests.wait import wait_until
from tests.workers.fakes import MODEL, Client
from tests.workers.test_beat import Make, board, make  # noqa: F401 - fixtures
from tests.workers.test_life import Make as MakeLife
from tests.workers.test_life import make as make_life  # noqa: F401 - a fixture
from workers.beat import Beat
from workers.board import Board
from workers.late import Late

command = Late.command
ANN = Pause("ann@box", "deploy", 1)


def test_each_beat_tells_the_loop_what_is_paused_and_wakes_it_when_that_changes(
    make: Make,  # noqa: F811
    board: Board,  # noqa: F811
    link: Link,
) -> None:
    woken: list[frozenset[int]] = []
    board.wake = lambda: woken.append(board.paused)
    beat = make()
    beat.tick(1.0)
    paused.pause(link, MODEL, ["low"], ANN)
    beat.tick(1.5)  # no beat is due
    assert woken == []
    beat.tick(2.0)
    beat.tick(3.0)
    assert (woken, board.paused) == ([{2}], {2})
    paused.resume(link, MODEL, LANES)
    beat.tick(4.0)
    assert woken == [{2}, set()]


def test_a_beat_reads_late_jobs_only_while_something_is_paused_and_once_a_beat(
    make: Make,  # noqa: F811
    link: Link,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[float] = []
    monkeypatch.setattr(Late, "command", lambda self, *of: sent.append(now) or command(self, *of))  # type: ignore[func-returns-value]
    beat = make()
    for tick in range(4, 40):  # four a second, as the thread does
        now = tick / 4
        if now == 3.0:
            paused.pause(link, MODEL, ["low"], ANN)
        if now == 6.0:
            paused.resume(link, MODEL, ["low"])
        beat.tick(now)
    assert sent == [4.0, 5.0, 6.0]  # heard at 3 and at 6


def test_the_beats_of_a_paused_slot_end_jobs_past_their_deadline_in_each_paused_lane(
    make: Make,  # noqa: F811
    board: Board,  # noqa: F811
    redis_url: str,
    link: Link,
) -> None:
    client = Client(redis_url)
    beat = make()
    ids = [client.submit(1.0, lane=lane, deadline_ms=1)[0] for lane in (1, 3)]
    (other,) = client.submit(1.0, lane=2, deadline_ms=1)
    later = now_ms(link) + 1
    wait_until(lambda: now_ms(link) > later, "the deadlines have passed")
    paused.pause(link, MODEL, ["high", "low"], ANN)
    for second in range(1, 5):
        beat.tick(float(second))
    assert [one.status.name for one in client.wait(ids)] == ["EXPIRED"] * 2
    assert other not in client.outcomes
    assert client.left() == (1, 0)
    client.link.close()


def test_pages_go_on_where_they_ended_lane_by_lane_and_begin_anew_after_a_resume() -> None:
    late = Late()

    def asked(*lanes: int) -> tuple[str, str]:
        command = late.command(MODEL, "h/0", set(lanes))
        return str(command[7]).rpartition(":")[2], str(command[14])

    assert asked(0, 2) == ("high", "-")
    late.hear([0, b"7-0"])
    assert asked(0, 2) == ("low", "-")
    late.hear([1, b"9-1"])
    assert asked(0, 2) == ("high", "7-0")
    late.hear([0, b"-"])
    assert asked(0, 2) == ("low", "9-1")
    late.hear([0, b"9-9"])
    assert asked(0) == ("high", "-")
    assert asked(0, 2) == ("low", "-")


def test_a_new_life_of_a_paused_model_claims_nothing_though_its_beat_said_no_word_yet(
    make_life: MakeLife,  # noqa: F811
    link: Link,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Beat, "run", lambda self: None)
    paused.pause(link, "mlp", LANES, ANN)
    life = make_life()
    thread = threading.Thread(target=life.live)
    thread.start()
    try:
        wait_until(lambda: hasattr(life, "board") and life.board.progress_at, "the loop runs", timeout=10)
        assert life.slot is not None
        assert life.slot._leases.claimer.claims.is_shut
        assert not life.slot._leases.claimer.is_blocked
        life.board.pause(frozenset())
        wait_until(lambda: life.slot is not None and life.slot._leases.claimer.is_blocked, "it waits for jobs again")
    finally:
        life.stop()
        thread.join(20)


def test_a_pause_reaches_a_slot_that_serves_and_its_end_does_too(
    make_life: MakeLife,  # noqa: F811
    link: Link,
    redis_url: str,
) -> None:
    from producer import Producer, ResultTimeout
    from tests.end_to_end.test_pool import rows

    life = make_life()
    life.settings = msgspec.structs.replace(
        life.settings, slot=msgspec.structs.replace(life.settings.slot, beat_s=0.1, lease_s=5.0)
    )
    thread = threading.Thread(target=life.live)
    thread.start()
    try:
        wait_until(lambda: roster.ready(link, "mlp"), "the slot is ready", timeout=10)
        with Producer(redis_url) as producer:
            producer.infer("mlp", rows(1)[0], 10)
            paused.pause(link, "mlp", LANES, ANN)
            wait_until(lambda: life.board.paused, "the slot has heard of it")
            wait_until(lambda: life.slot is not None and life.slot._leases.claimer.claims.is_shut, "and heeds it")
            handle = producer.submit("mlp", rows(1)[0])
            with pytest.raises(ResultTimeout, match=r"1 slot ready, paused by ann@box \(deploy\)"):
                handle.result(0.3)
            assert handle.status() == "waiting"
            assert roster.ready(link, "mlp") == ["h/0"]
            paused.resume(link, "mlp", LANES)
            handle.result(10)
    finally:
        life.stop()
        thread.join(20)
    assert link.call("EXISTS", keys.paused("mlp")) == 0
