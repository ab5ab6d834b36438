"""mosec, at its fastest: one worker, batches of up to 256, raw bytes both ways, plain HTTP on the loopback with keep-alive.

There is no queue to flood: a flood is as many clients as serve best, each sending again when it is answered, all of one process.
mosec's default to wait for a batch to fill is 10 ms; 1 ms, the shortest it takes, is faster for one job in flight.

On two cores an HTTP client costs as much as the server, so there are two:
- `mosec` through pyreqwest on uvloop: of the libraries on PyPI that were tried (aiohttp 9 500/s, geventhttpclient 8 800/s) the
  fastest, 11 400/s with 64 clients. What an app would use; the ratios are to this one.
- `mosec_raw` writes and parses HTTP by hand (uvloop, httptools): no session, headers, redirects or errors to speak of. Nobody
  writes an app so; it shows how fast the server is, as the raw bare loop does for Redis.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httptools
import uvloop
from pyreqwest.client import Client, ClientBuilder

from benchmarks.peers.model import Model
from benchmarks.peers.orders import serve

LIBRARY_FLOOD_CLIENTS, RAW_FLOOD_CLIENTS = 64, 256  # where each is fastest
MAX_BATCH, WAIT_MS = 256, 1
UP_WITHIN_S = 30.0
ANSWER_WITHIN_S = 60

Ask = Callable[[bytes], Awaitable[bytes]]


class Connection(asyncio.Protocol):
    """One keep-alive HTTP client."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[bytes] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("mosec hung up"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        assert self._answer is not None
        if self._parser.get_status_code() != 200:
            self._answer.set_exception(RuntimeError(f"mosec answered {self._parser.get_status_code()}"))
        else:
            self._answer.set_result(self._body)
        self._body = b""
        self._parser = httptools.HttpResponseParser(self)

    def ask(self, row: bytes) -> asyncio.Future[bytes]:
        """One request; none may be under way."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(
            b"POST /inference HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(row), row)
        )
        return self._answer


class RawClients:
    """Connections to one server, opened as they are needed and kept."""

    def __init__(self, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self._port = port
        self._loop = loop
        self._connections: list[Connection] = []

    def flood(self, rows: list[bytes]) -> None:
        self.in_flight(rows, RAW_FLOOD_CLIENTS)

    def one(self, row: bytes) -> None:
        self.in_flight([row], 1)

    def in_flight(self, rows: list[bytes], width: int) -> list[float]:
        return self._loop.run_until_complete(asyncio.wait_for(self._all(rows, width), ANSWER_WITHIN_S))

    async def _all(self, rows: list[bytes], width: int) -> list[float]:
        while len(self._connections) < width:
            _, connection = await self._loop.create_connection(Connection, "127.0.0.1", self._port)
            self._connections.append(connection)
        return await closed_loop([connection.ask for connection in self._connections[:width]], rows)


class LibraryClients:
    """The same through pyreqwest."""

    def __init__(self, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self._url = f"http://127.0.0.1:{port}/inference"
        self._loop = loop
        self._client = loop.run_until_complete(self._open())

    async def _open(self) -> Client:
        return ClientBuilder().max_connections(LIBRARY_FLOOD_CLIENTS).build()

    def flood(self, rows: list[bytes]) -> None:
        self.in_flight(rows, LIBRARY_FLOOD_CLIENTS)

    def one(self, row: bytes) -> None:
        self._loop.run_until_complete(self._ask(row))

    def in_flight(self, rows: list[bytes], width: int) -> list[float]:
        clients = closed_loop([self._ask] * width, rows)
        return self._loop.run_until_complete(asyncio.wait_for(clients, ANSWER_WITHIN_S))

    async def _ask(self, row: bytes) -> bytes:
        response = await self._client.post(self._url).body_bytes(row).build().send()
        if response.status != 200:
            raise RuntimeError(f"mosec answered {response.status}")
        return bytes(await response.bytes())


async def closed_loop(clients: list[Ask], rows: list[bytes]) -> list[float]:
    """Each client sends its next row when its last is answered; seconds each row took."""
    queue = iter(rows)
    took_s: list[float] = []

    async def one(ask: Ask) -> None:
        for row in queue:
            began = time.perf_counter()
            await ask(row)
            took_s.append(time.perf_counter() - began)

    await asyncio.gather(*map(one, clients))
    return took_s


def await_port(port: int) -> None:
    """Returns when the server listens."""
    deadline = time.monotonic() + UP_WITHIN_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def work() -> None:
    """The server, until SIGTERM. MOSEC_PORT and MOSEC_PATH say where; mosec reads its options from there and from argv."""
    del sys.argv[1:]
    from mosec import Server, Worker

    class Inference(Worker):  # type: ignore[misc]
        """Batches of raw rows."""

        def __init__(self) -> None:
            self._model = Model(os.environ["PEER_MODEL"])

        def deserialize(self, data: bytes) -> bytes:
            return data

        def serialize(self, data: bytes) -> bytes:
            return data

        def forward(self, data: list[bytes]) -> list[bytes]:
            return self._model(data)

    server = Server()
    server.append_worker(Inference, num=1, max_batch_size=MAX_BATCH, max_wait_time=WAIT_MS, start_method="fork")
    server.run()


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        work()
    else:
        port = int(os.environ["MOSEC_PORT"])
        await_port(port)
        loop = uvloop.new_event_loop()
        serve(mosec=LibraryClients(port, loop), mosec_raw=RawClients(port, loop))
