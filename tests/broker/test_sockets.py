"""Pieces come out of the other end as they went in, however little the kernel takes at a time; who waits too long is told."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from broker import sockets
from broker.packed import Buffer
from broker.sockets import Patience

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=[socket.AF_UNIX, socket.AF_INET])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    if request.param == socket.AF_UNIX:
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            ours = socket.create_connection(server.getsockname())
            theirs, _ = server.accept()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("sizes", [[5], [1, 0, 3], [300_000, 2, 1_000_000, 7], [3] * 2000, [100_000] * 20])
def test_all_pieces_arrive_in_order(sizes: list[int], pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    # given: a socket that takes a few KB at a time
    monkeypatch.setattr(sockets, "MOST_PIECES", 700)
    ours, theirs = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    pieces: list[Buffer] = [memoryview(os.urandom(size)) if size % 2 else os.urandom(size) for size in sizes]
    found = bytearray()

    def read() -> None:
        while data := theirs.recv(65536):
            found.extend(data)

    thread = threading.Thread(target=read)
    thread.start()
    # when
    Patience(ours, 10).send_all(pieces)
    ours.shutdown(socket.SHUT_WR)
    thread.join()
    # then
    assert bytes(found) == b"".join(pieces)


def test_an_end_that_is_gone_raises_as_sendall_does_and_reads_as_an_end() -> None:
    ours, theirs = socket.socketpair()
    patience = Patience(ours, 10)
    theirs.close()
    for pieces in ([b"x" * 100_000], [b"x" * 100_000, b"y"]):
        with pytest.raises(OSError):
            patience.send_all(list(pieces))
    assert patience.receive_into(bytearray(8)) == 0
    ours.close()


@pytest.mark.parametrize("is_there", [False, True])
def test_who_waits_too_long_for_an_answer_is_told_and_what_comes_is_taken(pair: Pair, is_there: bool) -> None:
    # given
    ours, theirs = pair
    patience, buffer = Patience(ours, 0.05), bytearray(16)
    assert ours.gettimeout() is None  # with a timeout of its own, Python asks poll before each call
    # then
    with pytest.raises(TimeoutError, match="timed out"):
        patience.receive_into(buffer, is_there=is_there)
    # then
    theirs.sendall(b"here")
    assert patience.receive_into(buffer, is_there=is_there) == 4
    assert buffer[:4] == b"here"


def test_an_answer_that_comes_late_is_waited_for_though_it_was_said_to_be_there() -> None:
    ours, theirs = socket.socketpair()
    timer = threading.Timer(0.05, theirs.sendall, (b"late",))
    timer.start()
    assert Patience(ours, 10).receive_into(bytearray(16), is_there=True) == 4
    timer.join()
    ours.close()
    theirs.close()


@pytest.mark.parametrize("pieces", [[bytes(1 << 24)], [bytes(1 << 20), bytes(1 << 24)]])
def test_a_server_that_reads_no_more_is_waited_for_once(pieces: list[Buffer], pair: Pair) -> None:
    """Not once for each part that the kernel could take."""
    # given
    patience = Patience(pair[0], 0.05)
    waits: list[float] = []

    class Counted:
        def __init__(self, poller: Any) -> None:
            self.poller = poller

        def poll(self, ms: float) -> Any:
            waits.append(ms)
            return self.poller.poll(ms)

    patience._to_write = Counted(patience._to_write)
    # when
    with pytest.raises(TimeoutError, match="timed out"):
        patience.send_all(pieces)
    # then: a short wait or two, while TCP moves what it took, and the one that was too long
    assert 1 <= len(waits) <= 20
    assert set(waits) == {50.0}


def test_signals_that_come_all_the_time_make_no_wait_endless() -> None:
    # given
    ours, theirs = socket.socketpair()
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    # then
    try:
        for is_there in (False, True):
            with pytest.raises(TimeoutError):
                Patience(ours, 0.2).receive_into(bytearray(1), is_there=is_there)
        with pytest.raises(TimeoutError):
            Patience(ours, 0.2).send_all([bytes(1 << 24)])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    ours.close()
    theirs.close()


def test_no_wait_is_endless() -> None:
    """A time below zero would be for ever to poll."""
    ours, theirs = socket.socketpair()
    for seconds in (0.0, -1.0):
        with pytest.raises(TimeoutError):
            Patience(ours, seconds).receive_into(bytearray(1))
    ours.close()
    theirs.close()
