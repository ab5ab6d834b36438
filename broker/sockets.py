"""One connected socket: how long it waits, and many pieces into it, as few calls of the kernel as it takes. Knows no Redis."""

from __future__ import annotations

import select
import socket
import ssl
from collections import deque
from itertools import islice

from broker.packed import Buffer

MOST_PIECES = 512  # in one call; Linux takes 1024


class Patience:
    """How long reads and writes of one socket wait. With a timeout of Python's each of them is two calls, a poll in front of it; here
    only those are that must wait. (SO_RCVTIMEO would be one call too, but each signal that Python handles begins its wait anew.)"""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self._sock = sock
        self._ms = max(1.0, seconds * 1e3)
        self._is_tls = isinstance(sock, ssl.SSLSocket)  # it knows no sendmsg, and poll knows not what it holds back
        sock.settimeout(seconds if self._is_tls else None)
        self._to_read, self._to_write = select.poll(), select.poll()
        self._to_read.register(sock, select.POLLIN)
        self._to_write.register(sock, select.POLLOUT)

    def receive_into(self, buffer: bytearray, *, is_there: bool = False) -> int:
        """As `recv_into`. Raises TimeoutError when nothing came in time. `is_there`: as far as the caller knows it need not wait."""
        sock = self._sock
        if self._is_tls:
            return sock.recv_into(buffer)
        if is_there:
            try:
                return sock.recv_into(buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass
        if not self._to_read.poll(self._ms):
            raise TimeoutError("timed out")
        return sock.recv_into(buffer)

    def send_all(self, pieces: list[Buffer]) -> None:
        """As `sendall` of all of them, and none is copied. Raises OSError, nothing tells then how much was sent; that is TimeoutError
        when nothing went in time."""
        sock = self._sock
        if self._is_tls:
            for piece in pieces:
                sock.sendall(piece)
            return
        sent = 0
        if len(pieces) == 1:
            try:
                sent = sock.send(pieces[0], socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass  # full: below
            if sent == len(pieces[0]):
                return  # as nearly always
        left = deque(memoryview(piece) for piece in pieces)
        if sent:
            left[0] = left[0][sent:]
        while left:
            try:
                sent = sock.sendmsg(list(islice(left, MOST_PIECES)), (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                if not self._to_write.poll(self._ms):
                    raise TimeoutError("timed out") from None
                continue
            while left and sent >= len(left[0]):
                sent -= len(left.popleft())
            if sent:
                left[0] = left[0][sent:]
