"""One connected socket: how long it waits, and many pieces into it, as few calls of the kernel as it takes. Knows no Redis."""

from __future__ import annotations

import socket
import ssl
import struct
from collections import deque
from itertools import islice

from broker.packed import Buffer

MOST_PIECES = 512  # in one call; Linux takes 1024


def bound_wait(sock: socket.socket, seconds: float) -> None:
    """Makes reads and writes raise TimeoutError after `seconds`. By the kernel where that can be: with a timeout of Python's, each
    read and each write is two calls, a poll in front of it."""
    if isinstance(sock, ssl.SSLSocket):
        sock.settimeout(seconds)
        return
    whole, part = divmod(max(1, round(seconds * 1e6)), 1_000_000)
    sock.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", whole, part))


def receive_into(sock: socket.socket, buffer: bytearray) -> int:
    """As `recv_into`. Raises TimeoutError when nothing came for as long as the socket waits."""
    try:
        return sock.recv_into(buffer)
    except BlockingIOError:
        raise TimeoutError("timed out") from None


def send_all(sock: socket.socket, pieces: list[Buffer]) -> None:
    """As `sendall` of all of them, and none is copied. Raises OSError; nothing tells then how much was sent."""
    try:
        if len(pieces) == 1 or isinstance(sock, ssl.SSLSocket):  # TLS knows no sendmsg
            for piece in pieces:
                sock.sendall(piece)
            return
        left = deque(memoryview(piece) for piece in pieces)
        while left:
            sent = sock.sendmsg(list(islice(left, MOST_PIECES)))
            while left and sent >= len(left[0]):
                sent -= len(left.popleft())
            if sent:
                left[0] = left[0][sent:]
    except BlockingIOError:
        raise TimeoutError("timed out") from None
