"""A bad network between the pool and Redis: a TCP proxy that delays, stalls and cuts off. Bytes are never changed.

What TCP makes of packet loss is a stall of a retransmission time-out, so a lossy line is one on which a share of the pieces
come 200 ms late. A partition holds everything back, in both directions, and leaves the connections open.
"""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path

RETRANSMIT_S = 0.2
PIECE = 1 << 16


class Proxy:
    """Listens on a port of 127.0.0.1 and speaks to a unix socket. Attributes may be set at any time."""

    def __init__(self, target: Path) -> None:
        self.delay_s = 0.0
        self.loss = 0.0
        self._target = target
        self._is_open = threading.Event()
        self._is_open.set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self.port = 0

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result(10)  # fmt: skip
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Nothing passes any more."""
        self._is_open.clear()

    def heal(self) -> None:
        """All that was held back passes now."""
        self._is_open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(str(self._target))
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pass(reader, server_writer), self._pass(server_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(PIECE):
                late_s = self.delay_s + (RETRANSMIT_S if random.random() < self.loss else 0.0)
                if late_s:
                    await asyncio.sleep(late_s)
                while not self._is_open.is_set():
                    await asyncio.sleep(0.01)
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def _close(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
