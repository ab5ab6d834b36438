"""Leases on their way back while a blocked read is out or the connection breaks: nothing is lost, and a mark is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from structlog.testing import capture_logs

from broker import keys, spec
from broker.connection import Command, Link
from broker.ends import Fault
from broker.messages import Job
from broker.queue import Queue
from broker.spec import Limits
from tests.wait import wait_until
from tests.workers.fakes import MODEL, SPEC, Client
from workers.board import Board
from workers.faults import fault_by
from workers.leases import Leases
from workers.wire import Wire


class Holder:
    """A slot's leases without its engine: takes what comes, and keeps it."""

    def __init__(self, url: str) -> None:
        self.queue = Queue(MODEL, "h/0.x")
        self.link = Link(url)
        self.link.connect()
        self.queue.ensure_groups(self.link)
        spec.publish(self.link, SPEC, Limits())
        self.jobs: list[Job] = []
        self.settled: list[bool] = []
        self.leases = Leases(
            queue=self.queue, wire=Wire(self.link), board=Board(name="h/0", incarnation="x", pid=1), lease_s=0.0,
            take=self._take, restore=lambda: None, on_settled=lambda ended: self.settled.append(True),
        )  # fmt: skip

    def _take(self, jobs: list[Job]) -> list[Fault]:
        self.jobs += jobs
        return []

    def talk(self, *, room_rows: int = 0, is_busy: bool = True, block_ms: int = 0) -> None:
        self.leases.talk([], [], rooms=(room_rows,) * 3, is_busy=is_busy, block_ms=block_ms)
        if self.leases.wire.under_way and not self.leases.claimer.is_blocked:
            self.leases.hear()

    def claim(self) -> list[Job]:
        while not self.jobs:
            self.talk(room_rows=8, is_busy=False)
        return self.jobs

    def block(self) -> None:
        """Until a read that blocks is out."""
        while not self.leases.claimer.is_blocked:
            self.talk(room_rows=8, is_busy=False, block_ms=30_000)

    def until_quiet(self) -> None:
        def look() -> bool:
            self.talk()
            return self.leases.is_quiet

        wait_until(look, "Redis knows everything")


@pytest.fixture
def holder(redis_url: str, link: Link) -> Iterator[Holder]:
    holder = Holder(redis_url)
    yield holder
    holder.link.close()


def returned(link: Link, holder: Holder) -> list[tuple[bytes, int]]:
    """(consumer, deliveries) of all leases."""
    pending = link.call("XPENDING", holder.queue.lanes[1], keys.GROUP, "-", "+", 100)
    return [(lease[1], lease[3]) for lease in pending]


@pytest.mark.parametrize("marks", [0, 1])
def test_what_is_given_back_while_a_blocked_read_is_out_arrives_at_once_with_its_mark(
    redis_url: str, link: Link, holder: Holder, marks: int
) -> None:
    Client(redis_url).submit(1.0, 2.0)
    jobs = list(holder.claim())
    holder.block()
    began = time.monotonic()
    holder.leases.hang_up()
    holder.leases.give_back(jobs, marks=marks)
    holder.until_quiet()
    assert returned(link, holder) == [(b"returned", 1 + marks)] * 2
    assert time.monotonic() - began < 20, "it did not wait for the read"


def test_a_drain_is_no_loss_and_says_nothing_of_redis(redis_url: str, link: Link, holder: Holder) -> None:
    Client(redis_url).submit(1.0)
    holder.claim()
    for is_away, events in ((False, []), (True, ["redis lost", "redis is back"])):
        holder.block()
        with capture_logs() as logs:
            holder.leases.hang_up()
            if is_away:
                holder.leases._contact.lose(ConnectionError("Redis went away, too"))
            holder.until_quiet()
        assert [log["event"] for log in logs if log["event"].startswith("redis")] == events


@pytest.mark.parametrize("is_sent", [False, True], ids=["before it was sent", "before it ran"])
def test_a_mark_outlives_a_connection_that_breaks_again_right_after_the_reconnect(
    redis_url: str, link: Link, holder: Holder, monkeypatch: pytest.MonkeyPatch, is_sent: bool
) -> None:
    Client(redis_url).submit(1.0, 2.0)
    jobs = list(holder.claim())
    sent = break_when(
        holder, monkeypatch, lambda command: command[-4:-2] == [2, jobs[0].entry], times=2, is_sent=is_sent
    )
    # when: the engine died under them, twice the connection breaks
    holder.leases.hang_up()
    holder.leases.give_back(jobs, marks=1)
    holder.until_quiet()
    # then
    assert len(sent) == 3
    assert returned(link, holder) == [(b"returned", 2)] * 2


def test_a_look_for_ghosts_leaves_those_alone_that_are_on_their_way_back(
    redis_url: str, link: Link, holder: Holder
) -> None:
    Client(redis_url).submit(1.0, 2.0)
    jobs = list(holder.claim())
    # when: Redis calls them ours, because it has not yet heard that they go back with a mark
    heard: list[list[Command]] = []
    for command, handler in holder.leases._ghosts.pairs():
        holder.leases._owed.add(
            holder.queue.give_back([], marks=1), lambda reply: None, frozenset(job.lease for job in jobs)
        )
        for job in jobs:
            holder.leases._board.held.discard(job.lease)
        handler(link.call(*command))
        heard.append([command])
    assert len(heard) == 3
    assert not holder.leases.wire.under_way, "nothing was sent for them"
    assert returned(link, holder) == [(b"h/0.x", 1)] * 2


def test_a_job_that_failed_speaks_for_the_slot_as_one_that_is_done_does(
    redis_url: str, link: Link, holder: Holder
) -> None:
    Client(redis_url).submit(1.0)
    (job,) = holder.claim()
    fault = fault_by(job, "model_error", "its own", now_ms=0.0)
    assert holder.leases.talk([], [fault], rooms=(0, 0, 0), is_busy=True, block_ms=0)
    holder.until_quiet()
    assert holder.settled == [True]


def break_when(
    holder: Holder, monkeypatch: pytest.MonkeyPatch, is_it: Callable[[list[object]], bool], *, times: int, is_sent: bool
) -> list[bool]:
    """The connection breaks the first `times` times that a command of that kind is sent, or right before its script runs."""
    send, seen = Link.send, []

    def breaking(self: Link, *commands: Command) -> None:
        if self is holder.link and any(is_it(list(command)) for command in commands):
            seen.append(True)
            if len(seen) <= times:
                if is_sent:  # accepted by the socket, read by nobody
                    self.expected += len(commands)
                    assert self._socket is not None
                    self._socket.shutdown(2)
                    return
                self.close()
                raise ConnectionResetError("lost")
        send(self, *commands)

    monkeypatch.setattr(Link, "send", breaking)
    return seen
