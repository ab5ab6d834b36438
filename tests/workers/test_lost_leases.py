"""What a slot does with jobs in hand when Redis comes back with another history, stays silent, or takes no writes."""

from __future__ import annotations

import threading

import pytest
from structlog.testing import capture_logs

from broker import keys
from broker.connection import Link
from broker.ends import Fault
from broker.lease import lane_and_entry, lease_of
from broker.queue import Queue
from tests.wait import wait_until
from tests.workers.fakes import MODEL, SPEC, Client, Doubler, LateEngine, RunningSlot, first
from workers.forgotten import Forgotten


class Gate:
    """A backend that stops in its first forward until opened."""

    def __init__(self) -> None:
        self.backend = Doubler()
        self.begun, self.open = threading.Event(), threading.Event()
        self.backend.before = self._before

    def _before(self) -> None:
        self.begun.set()
        assert self.open.wait(15)


def start(redis_url: str, gate: Gate) -> tuple[RunningSlot, int]:
    """A slot whose engine stops at the gate, and its connection's id, to be ended with CLIENT KILL as a failover does."""
    slot = RunningSlot(redis_url, engine=LateEngine(SPEC, gate.backend), lease_s=0.6)
    return slot, int(slot.link.call("CLIENT", "ID"))


def test_an_entry_id_that_another_job_got_after_a_failover_ends_only_that_job(
    redis_url: str, client: Client, link: Link
) -> None:
    """The new master had not heard of the entry, and its clock is behind: it gives the same id to the next job."""
    gate = Gate()
    slot, connection = start(redis_url, gate)
    with slot:
        # given: job 1 runs
        client.submit(1.0)
        assert gate.begun.wait(10)
        ((_, entry),) = map(lane_and_entry, slot.board.held)
        # when: its entry is another job's, which nobody has claimed yet
        other = client.blob(5.0, "cli-77")
        link.call_all([
            ("MULTI",), ("DEL", *slot.queue.lanes),
            *(("XGROUP", "CREATE", lane, keys.GROUP, "0", "MKSTREAM") for lane in slot.queue.lanes),
            ("XADD", slot.queue.lanes[1], entry, "b", other), ("EXEC",),
        ])  # fmt: skip
        with capture_logs() as logs:
            link.call("CLIENT", "KILL", "ID", connection)
            wait_until(lambda: "redis is back" in {log["event"] for log in logs}, "the slot came back")
        gate.open.set()
        # then: the other job is run and answered, the first one is not
        (outcome,) = client.wait(["cli-77"])
        assert first(outcome) == 10.0
    assert set(client.outcomes) == {"cli-77"}
    assert client.left() == (0, 0)


def test_leases_that_were_lost_are_dropped_and_the_others_settled(redis_url: str, client: Client, link: Link) -> None:
    gate = Gate()
    slot, connection = start(redis_url, gate)
    ids = client.submit(*(float(number) for number in range(40)))
    with slot:
        assert gate.begun.wait(10)
        wait_until(lambda: len(slot.board.held) == 40, "all are in hand")
        gone = [entry for entry, _ in link.call("XRANGE", slot.queue.lanes[1], "-", "+", "COUNT", 10)]
        # when: the new master knows nothing of ten of them
        link.call_all([("XACK", slot.queue.lanes[1], keys.GROUP, *gone), ("XDEL", slot.queue.lanes[1], *gone)])
        with capture_logs() as logs:
            link.call("CLIENT", "KILL", "ID", connection)
            wait_until(lambda: len(slot.board.held) == 30, "ten are dropped")
        gate.open.set()
        # then
        assert [log["count"] for log in logs if log["event"] == "redis forgot leases"] == [10]
        assert len(client.wait(ids[10:])) == 30
    assert client.counters()["done"] == 30
    assert client.left() == (0, 0)


def test_a_settle_whose_answer_was_lost_is_counted_and_not_sent_again(
    redis_url: str, client: Client, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunningSlot(redis_url) as slot:
        client.wait(client.submit(1.0))
        wait_until(lambda: slot.board.jobs == 1, "it is counted")
        gone: list[bool] = []

        def read() -> object:
            """The settle has arrived; its answer is lost on the way."""
            reply = Link.read(slot.link)
            if slot.slot._leases._settling and not gone:
                gone.append(True)
                slot.link.close()
                raise ConnectionResetError("lost")
            return reply

        monkeypatch.setattr(slot.link, "read", read)
        client.wait(client.submit(2.0))
        wait_until(lambda: slot.board.jobs == 2, "it is counted once")
        assert gone
    assert client.counters()["done"] == 2


def test_a_server_that_takes_no_writes_is_away_and_is_not_asked_without_a_pause(
    redis_url: str, client: Client, link: Link
) -> None:
    with RunningSlot(redis_url) as slot:
        client.wait(client.submit(1.0))
        try:
            with capture_logs() as logs:
                link.call("REPLICAOF", "127.0.0.1", 1)
                wait_until(lambda: slot.slot._leases.lost_since is not None, "the slot sees it")
                link.call("CONFIG", "RESETSTAT")
                threading.Event().wait(0.6)
                tries = link.call("INFO", "commandstats").decode()
                assert slot.slot._leases.lost_since is not None
                assert sum(log["event"] in ("redis lost", "redis is back") for log in logs) == 1
            persists = [line for line in tries.splitlines() if line.startswith("cmdstat_persist:")]
            asked = int(persists[0].split("rejected_calls=")[1].split(",")[0]) if persists else 0
            assert 1 <= asked < 10
        finally:
            link.call("REPLICAOF", "NO", "ONE")
        assert first(client.wait(client.submit(2.0))[0]) == 4.0


def test_a_server_that_never_answers_is_lost_after_a_while_and_nothing_counts_twice(
    redis_url: str, client: Client, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.contact.SILENT_S", 0.2)
    with RunningSlot(redis_url, lease_s=6.0, beat_s=1.0) as slot:
        client.wait(client.submit(1.0))
        with capture_logs() as logs:
            link.call("CLIENT", "PAUSE", 800)
            wait_until(lambda: slot.slot._leases.lost_since is not None, "the slot gives up waiting")
            link.call("PING")  # answered when the pause is over
        ids = client.submit(*(float(number) for number in range(50)))
        assert len(client.wait(ids)) == 50
    assert any("no answer for" in str(log.get("error")) for log in logs)
    assert client.counters()["done"] == 51
    assert client.left() == (0, 0)


def test_forgotten_scripts_are_no_trouble_to_any_part_of_a_slot(redis_url: str, client: Client, link: Link) -> None:
    queue = Queue(MODEL, "x")
    with RunningSlot(redis_url) as slot:
        for turn in range(10):
            ids = client.submit(*(float(number) for number in range(30)))
            link.call("SCRIPT", "FLUSH")
            if turn % 5 == 0:
                slot.slot._leases.ask(queue.ask_to_retire("h/9", place_ttl_ms=1), lambda reply: None)
            assert len(client.wait(ids)) == 30
            client.link.reload()
    assert client.counters()["done"] == 300
    assert client.left() == (0, 0)


def test_an_id_in_hand_that_comes_with_another_job_is_that_jobs_from_then_on() -> None:
    # given: the slot claims what a failover gave the id to before it sees that the connection broke
    forgotten, lease = Forgotten(), lease_of(1, b"5-0")
    forgotten.took(lease, "cli-1")
    assert forgotten.is_held(lease, "cli-1"), "swept and claimed again: the copy in hand goes on"
    assert not forgotten.is_held(lease, "cli-77")
    forgotten.took(lease, "cli-77")
    # then
    faults = [Fault(1, b"5-0", 1, job_id, 0, "failed", 0, "test", b"") for job_id in ("cli-1", "cli-77")]
    assert [one.id for one in forgotten.faults(faults)] == ["cli-77"]
