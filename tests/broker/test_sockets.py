"""Pieces come out of the other end as they went in, however little the kernel takes at a time."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from broker import sockets
from broker.packed import Buffer
from broker.sockets import bound_wait, receive_into, send_all


@pytest.mark.parametrize("sizes", [[5], [1, 0, 3], [300_000, 2, 1_000_000, 7], [3] * 2000, [100_000] * 20])
def test_all_pieces_arrive_in_order(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    # given: a socket that takes a few KB at a time
    monkeypatch.setattr(sockets, "MOST_PIECES", 700)
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.settimeout(10)
    pieces: list[Buffer] = [memoryview(os.urandom(size)) if size % 2 else os.urandom(size) for size in sizes]
    found = bytearray()

    def read() -> None:
        while data := theirs.recv(65536):
            found.extend(data)

    thread = threading.Thread(target=read)
    thread.start()
    # when
    send_all(ours, pieces)
    ours.close()
    thread.join()
    theirs.close()
    # then
    assert bytes(found) == b"".join(pieces)


def test_an_end_that_is_gone_raises_as_sendall_does() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(OSError):
        send_all(ours, [b"x" * 100_000, b"y"])
    ours.close()


def fill(sock: socket.socket, pieces: list[Buffer]) -> None:
    """Sends until nothing goes in any more."""
    for _ in range(1000):
        send_all(sock, pieces)


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_who_waits_too_long_is_told_by_the_kernel(family: socket.AddressFamily) -> None:
    # given
    if family == socket.AF_UNIX:
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            ours = socket.create_connection(server.getsockname())
            theirs, _ = server.accept()
    bound_wait(ours, 0.05)
    buffer = bytearray(16)
    # then: nothing comes
    assert ours.gettimeout() is None  # with a timeout of its own, Python asks poll before each call
    with pytest.raises(TimeoutError, match="timed out"):
        receive_into(ours, buffer)
    # then: what comes is taken, and the end too
    theirs.sendall(b"here")
    assert receive_into(ours, buffer) == 4
    # then: nobody reads
    more: list[list[Buffer]] = [[bytes(1 << 20)], [bytes(1 << 20), b"and more"]]
    for pieces in more:
        with pytest.raises(TimeoutError, match="timed out"):
            fill(ours, pieces)
    theirs.close()
    ours.close()


def test_no_wait_is_endless() -> None:
    """A time of 0 would be for ever to the kernel."""
    ours, theirs = socket.socketpair()
    bound_wait(ours, 0.0)
    with pytest.raises(TimeoutError):
        receive_into(ours, bytearray(1))
    ours.close()
    theirs.close()
