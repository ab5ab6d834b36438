"""Pieces come out of the other end as they went in, however little the kernel takes at a time."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from broker import send
from broker.packed import Buffer
from broker.send import send_all


@pytest.mark.parametrize("sizes", [[5], [1, 0, 3], [300_000, 2, 1_000_000, 7], [3] * 2000, [100_000] * 20])
def test_all_pieces_arrive_in_order(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    # given: a socket that takes a few KB at a time
    monkeypatch.setattr(send, "MOST_PIECES", 700)
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
