"""A relay in front of a real Redis that knows WAITAOF, for servers that do not: everything else is the server's own answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import hiredis

Answer = Callable[[list[bytes]], bytes]
SYNCED, NOT_SYNCED = b"*2\r\n:1\r\n:0\r\n", b"*2\r\n:0\r\n:0\r\n"


class Relay:
    """Listens on a socket of its own; `answer` gives what WAITAOF answers. `seen` names the commands, in order."""

    def __init__(self, folder: Path, server: Path, answer: Answer) -> None:
        self.url = f"unix://{folder / 'relay.sock'}"
        self.seen: list[str] = []
        self.answer = answer
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / "relay.sock"))
        self._listener.listen()
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in self._sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._server))
            self._sockets += [client, server]
            threading.Thread(target=self._serve, args=(client, server), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        asked = hiredis.Reader()
        try:
            while data := client.recv(1 << 16):
                asked.feed(data)
                while (command := asked.gets()) is not False:
                    name = command[0].decode().upper()
                    self.seen.append(name)
                    client.sendall(self.answer(command) if name == "WAITAOF" else _pass(server, command))
        except OSError:
            pass


def _pass(server: socket.socket, command: list[bytes]) -> bytes:
    server.sendall(hiredis.pack_command(tuple(command)))  # type: ignore[arg-type]
    reader, raw = hiredis.Reader(), b""
    while True:
        data = server.recv(1 << 16)
        if not data:
            raise OSError("the server is gone")
        raw += data
        reader.feed(data)
        if reader.gets() is not False:
            return raw


def honest(apart_s: float) -> Answer:
    """A server whose syncs are so far apart."""
    synced_at = [0.0]

    def answer(command: list[bytes]) -> bytes:
        if command[3] != b"1":  # the probe finds nothing to wait for
            time.sleep(max(0.0, synced_at[0] + apart_s - time.monotonic()))
            synced_at[0] = time.monotonic()
        return SYNCED

    return answer
