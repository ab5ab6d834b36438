"""XML-RPC over a unix socket with a time limit: supervisor's own transport waits for ever. Knows nothing of supervisord."""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from typing import Any


class UnixTransport(xmlrpc.client.Transport):
    """For `xmlrpc.client.ServerProxy`; whoever holds it closes it after each call."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_s = timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path, self._timeout_s)
        self._connection = host, connection  # where `close` looks for it
        return connection


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.close()
            raise
