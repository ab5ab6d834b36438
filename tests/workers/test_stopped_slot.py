"""A slot that stood still for longer than its lease and wakes, while another slot has its jobs."""

from __future__ import annotations

import threading

from broker.connection import Link
from broker.messages import Status
from broker.queue import Queue
from tests.wait import wait_until
from tests.workers.fakes import MODEL, Client, Doubler, RunningSlot, first


class Gate:
    """Holds a backend in its forward, and with it the whole loop, for the model runs in the slot's own thread."""

    def __init__(self, *, error: Exception | None = None) -> None:
        self.backend = Doubler()
        self.backend.before = self._before
        self.is_reached, self._opens = threading.Event(), threading.Event()
        self._error = error

    def _before(self) -> None:
        self.is_reached.set()
        assert self._opens.wait(20)
        if self._error is not None:
            raise self._error

    def open(self) -> None:
        self._opens.set()


def sweep(link: Link) -> int:
    """What the beat of any slot does once the leases are old enough; the leases returned."""
    return int(link.call(*Queue(MODEL, "sweeper").sweep(lease_ms=0))[0])


def test_a_late_success_after_another_slot_answered_changes_nothing(redis_url: str, client: Client, link: Link) -> None:
    gate = Gate()
    with RunningSlot(redis_url, name="h/0", backend=gate.backend, lease_s=0.4) as stopped:
        ids = client.submit(*range(60))
        assert gate.is_reached.wait(10)
        assert sweep(link) == 60
        with RunningSlot(redis_url, name="h/1"):
            outcomes = client.wait(ids)
        gate.open()
        wait_until(lambda: not stopped.board.held, "it holds nothing any more")
        assert [first(one) for one in outcomes] == [2.0 * value for value in range(60)]
        assert client.counters()["done"] == 60
        assert client.left() == (0, 0)
        assert first(client.wait(client.submit(7.0))[0]) == 14.0, "it works on"
    assert client.left() == (0, 0)


def test_a_late_success_that_is_first_counts(redis_url: str, client: Client, link: Link) -> None:
    gate, other = Gate(), Gate()
    with RunningSlot(redis_url, name="h/0", backend=gate.backend) as stopped:
        ids = client.submit(*range(100, 110))
        assert gate.is_reached.wait(10)
        sweep(link)
        with RunningSlot(redis_url, name="h/1", backend=other.backend) as heir:
            assert other.is_reached.wait(10)
            gate.open()
            outcomes = client.wait(ids)
            assert client.counters()["done"] == 10
            other.open()
            wait_until(lambda: not heir.board.held, "the other slot's outcomes are told, and dropped")
        wait_until(lambda: not stopped.board.held, "it holds nothing any more")
    assert [first(one) for one in outcomes] == [2.0 * value for value in range(100, 110)]
    assert client.counters()["done"] == 10
    assert client.left() == (0, 0)


def test_a_late_failure_is_ignored(redis_url: str, client: Client, link: Link) -> None:
    gate, other = Gate(error=ValueError("only here")), Gate()
    with RunningSlot(redis_url, name="h/0", backend=gate.backend) as stopped:
        ids = client.submit(1.0, 2.0, 3.0)
        assert gate.is_reached.wait(10)
        sweep(link)
        with RunningSlot(redis_url, name="h/1", backend=other.backend):
            assert other.is_reached.wait(10)
            gate.open()
            wait_until(lambda: not stopped.board.held, "its failures are told")
            assert "failed" not in client.counters()
            other.open()
            outcomes = client.wait(ids)
    assert {one.status for one in outcomes} == {Status.DONE}
    assert client.counters()["done"] == 3
    assert client.left() == (0, 0)


def test_a_failure_told_before_anybody_claimed_the_swept_job_is_ignored_too(
    redis_url: str, client: Client, link: Link
) -> None:
    gate = Gate(error=ValueError("only here"))
    with RunningSlot(redis_url, name="h/0", backend=gate.backend) as stopped:
        ids = client.submit(1.0)
        assert gate.is_reached.wait(10)
        sweep(link)
        gate.backend.before = lambda: None  # its next forward is good
        gate.open()
        (outcome,) = client.wait(ids)
        wait_until(lambda: not stopped.board.held, "it holds nothing any more")
    assert first(outcome) == 2.0
    assert client.left() == (0, 0)
