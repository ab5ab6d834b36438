"""Many pieces into one socket, in order, as few calls of the kernel as it takes. Knows no Redis."""

from __future__ import annotations

import socket
import ssl
from collections import deque
from itertools import islice

from broker.packed import Buffer

MOST_PIECES = 512  # in one call; Linux takes 1024


def send_all(sock: socket.socket, pieces: list[Buffer]) -> None:
    """As `sendall` of all of them, and none is copied. Raises OSError; nothing tells then how much was sent."""
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
