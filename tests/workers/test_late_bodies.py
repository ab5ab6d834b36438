"""Bodies that come late, or never: nobody else waits for them, and nobody holds more than two batches meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import pytest

from broker import keys
from broker.bodies import refer
from broker.bodies_store import BodyStore, open_store
from broker.connection import Link
from broker.messages import LANES, Status
from tests.wait import wait_until
from tests.workers.apart import submit
from tests.workers.fakes import MODEL, SPEC, Client, Doubler, LateEngine, RunningSlot, first
from tests.workers.test_batcher import job
from workers import readers
from workers.bodies import Bodies


@pytest.fixture
def folder(tmp_path: Path) -> BodyStore:
    opened = open_store(str(tmp_path / "bodies"))
    assert opened is not None
    return opened


def test_a_store_that_hangs_holds_up_no_other_job_and_no_end_of_the_slot(
    redis_url: str, client: Client, folder: BodyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    go = threading.Event()
    read = folder.read

    def hang(name: str) -> bytes | None:
        go.wait(20)
        return read(name)

    monkeypatch.setattr(folder, "read", hang)
    try:
        with RunningSlot(redis_url, store=folder):
            submit(client, 1.0, store=folder)
            # when
            outcomes = client.wait(client.submit(*range(10)))
        # then: the slot has drained, and the job waits for another one
        assert len(outcomes) == 10
        assert client.left() == (1, 1)
    finally:
        go.set()


def test_a_store_that_never_answers_is_given_up_for_the_job(
    redis_url: str, client: Client, folder: BodyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    monkeypatch.setattr(folder, "read", lambda name: bool(go.wait(20)) and None)
    monkeypatch.setattr(readers, "PATIENCE_S", 0.1)
    try:
        with RunningSlot(redis_url, store=folder):
            (outcome,) = client.wait(submit(client, 1.0, store=folder))
        assert (outcome.status, outcome.note["reason"]) == (Status.DEAD, "store_away")
    finally:
        go.set()


def test_an_idle_slot_answers_at_once_when_a_body_comes_late(
    redis_url: str, client: Client, folder: BodyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: a blocked read, if there were one, would hold the answer up for longer than we wait
    go = threading.Event()
    read = folder.read
    monkeypatch.setattr(folder, "read", lambda name: read(name) if go.wait(20) else None)
    with RunningSlot(redis_url, store=folder, block_ms=3900) as slot:
        ids = submit(client, 1.0, store=folder)
        wait_until(lambda: bool(slot.slot._bodies.waiting), "the body is being read")
        small = client.submit(*range(3))
        # when
        assert len(client.wait(small, within_s=3)) == 3
        go.set()
        # then
        assert first(client.wait(ids, within_s=3)[0]) == 2.0


def test_a_slot_holds_at_most_two_batches_with_those_whose_bodies_are_under_way(
    redis_url: str, client: Client, link: Link, folder: BodyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    go = threading.Event()
    read = folder.read
    monkeypatch.setattr(folder, "read", lambda name: read(name) if go.wait(20) else None)
    slot = RunningSlot(redis_url, store=folder)
    ids = submit(client, *range(300), store=folder)
    with slot:
        # when
        wait_until(lambda: sum(slot.slot._bodies.rows) >= 64, "it has read ahead")
        most = 0

        def has_looked_again() -> bool:
            nonlocal most
            most = max(most, len(slot.board.held))
            return slot.slot._bodies._look_at > looked_at

        looked_at = slot.slot._bodies._look_at + 0.1
        wait_until(has_looked_again, "it looks for more and has no room")
        go.set()
        # then
        assert most <= 2 * 64
        assert len(client.wait(ids)) == 300


def test_a_slot_that_leaves_gives_back_what_waits_for_its_body_before_the_engine_is_done(
    redis_url: str, client: Client, link: Link, folder: BodyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    go = threading.Event()
    monkeypatch.setattr(folder, "read", lambda name: bool(go.wait(20)) and None)
    backend = Doubler()
    backend.before = lambda: bool(go.wait(20)) and None
    slot = RunningSlot(redis_url, store=folder, backend=backend, engine=LateEngine(SPEC, backend))
    running = client.submit(1.0)
    submit(client, 2.0, store=folder)
    with slot:
        wait_until(lambda: bool(backend.batches), "the engine runs")
        wait_until(lambda: bool(slot.slot._bodies.waiting), "the body is being read")
        # when
        slot.slot.leave()
        # then
        wait_until(lambda: returned(link) == 1, "the job is returned")
        go.set()
        client.wait(running)


def returned(link: Link) -> int:
    """Leases that wait for the next claim."""
    return sum(
        len(link.call("XPENDING", keys.lane(MODEL, name), keys.GROUP, "-", "+", 9, keys.RETURNED)) for name in LANES
    )


class Shelf:
    """A store that answers when it is told to."""

    token = "shelf"

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)

    def read(self, name: str) -> bytes:
        assert self.go.acquire(timeout=10)
        return b"body"

    def write(self, bodies: Mapping[str, bytes]) -> None: ...

    def remove(self, names: Iterable[str]) -> None: ...

    def recycle(self, names: Iterable[str]) -> None: ...

    def tidy(self) -> None: ...


class Everything:
    """Leases of one who holds them all."""

    def __contains__(self, lease: object) -> bool:
        return True


@pytest.mark.parametrize("is_claimed_again", [False, True])
def test_a_body_that_comes_for_a_job_given_back_meanwhile_is_dropped(is_claimed_again: bool) -> None:
    # given
    shelf = Shelf()
    bodies = Bodies(
        model=MODEL, store=shelf, ask=lambda command, handler: True, losses=lambda: 0, held=Everything(), wake=lambda: None,
        redis_ms=lambda: 0.0,
    )  # fmt: skip
    old = msgspec.structs.replace(job(rows=3), body=refer("shelf", "abc-1", b"body"))
    again = msgspec.structs.replace(old, deliveries=2)
    bodies.split([old])
    threads = bodies._readers
    assert threads is not None
    try:
        wait_until(lambda: threads._under_way[0] is not None, "its body is being read")
        # when
        assert bodies.clear() == [old]
        shelf.go.release()
        wait_until(lambda: not threads._read.empty(), "its body has come")
        if is_claimed_again:
            bodies.split([again])
        bodies.advance()
        # then
        assert (bodies.ready, sum(bodies.rows), bool(bodies.waiting)) == ([], 3 * is_claimed_again, is_claimed_again)
        if is_claimed_again:
            shelf.go.release()
            wait_until(lambda: not threads._read.empty(), "the body has come again")
            bodies.advance()
            assert [one.deliveries for one in bodies.ready] == [2]
        assert (sum(bodies.rows), bodies.faults, bool(bodies.waiting)) == (0, [], False)
    finally:
        shelf.go.release(9)
        bodies.close()
