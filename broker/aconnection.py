"""One socket to Redis for asyncio: `connection.Link` with awaits, and the same rule, no hidden retries.

Exchanges are not interleaved: the owner sends commands and reads all their replies before the next ones.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.exceptions import AuthenticationError, AuthorizationError, InvalidResponse, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from broker.address import lost, make_async_pool, not_redis, safe_url, sentinels_of
from broker.connection import (
    LOST,
    READ_TIMEOUT_S,
    SCRIPTS,
    START_IT,
    Arg,
    Command,
    refused,
)
from broker.errors import RedisUnavailable
from broker.packed import packed
from broker.replies import read_error


class AsyncLink:
    """A connection to Redis that reconnects only when told to."""

    def __init__(self, url: str, *, read_timeout_s: float = READ_TIMEOUT_S) -> None:
        """`url`: redis://, rediss://, unix:// or redis+sentinel://. Raises RedisUnavailable when it is none of these."""
        self.url = url
        self._pool = make_async_pool(url)
        self._connection: Any = self._pool.make_connection()
        self._sentinels = sentinels_of(self._pool)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._reader: Any = None
        self._read_timeout_s = read_timeout_s

    @property
    def is_connected(self) -> bool:
        return self._streams is not None

    async def connect(self) -> None:
        """Connects, authenticates and loads the scripts. Raises one of LOST, or RedisUnavailable when refused."""
        await self.close()
        try:
            await self._connection.connect()
            for sentinel in self._sentinels:
                await sentinel.aclose()  # asked again only at the next connect
            self._streams = (self._connection._reader, self._connection._writer)
            self._reader = hiredis.Reader(protocolError=RedisConnectionError, replyError=read_error)
            # Asked first, not loaded at once: Redis 6.2 writes each SCRIPT LOAD to its append-only file.
            if not all(await self.call("SCRIPT", "EXISTS", *(digest for _, digest in SCRIPTS.values()))):
                await self.reload()
        except LOST as error:
            await self.close()
            # redis-py counts refusals among the lost, and its asyncio half wraps them too
            if any(isinstance(one, AuthenticationError | AuthorizationError) for one in (error, error.__cause__)):
                raise refused(self.url, error) from None
            if any(isinstance(one, InvalidResponse) for one in (error, error.__cause__)):
                raise not_redis(self.url) from None
            raise lost(self.url, error) from error.__cause__
        except RedisError as error:
            await self.close()
            if isinstance(error, InvalidResponse):
                raise not_redis(self.url) from None
            raise refused(self.url, error) from None

    async def connect_within(self, seconds: float) -> None:
        """Connects, trying again with back-off and jitter for `seconds`. Raises RedisUnavailable at their end."""
        deadline = time.monotonic() + seconds
        pause = 0.05
        while True:
            try:
                await self.connect()
                return
            except LOST as error:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise RedisUnavailable(
                        f"no Redis at {safe_url(self.url)} within {seconds:.1f} s ({error}); {START_IT}"
                    ) from None
                await asyncio.sleep(min(left, pause * random.uniform(0.5, 1.5)))
                pause = min(pause * 2, 2.0)

    async def close(self) -> None:
        self._streams = self._reader = None
        await self._connection.disconnect(nowait=True)

    def abort(self) -> None:
        """Drops the socket at once, for an exchange that was cut short."""
        if self._streams is not None:
            self._streams[1].transport.abort()
        self._streams = self._reader = None

    async def call(self, *command: Arg) -> Any:
        """Sends one command and reads its reply. Raises ResponseError for an error reply, one of LOST otherwise."""
        (reply,) = await self.call_all([command])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def call_all(self, commands: Sequence[Command]) -> list[Any]:
        """One round trip; error replies are returned, not raised. A server that may not serve now is as good as away: that is
        raised as one of LOST."""
        if self._streams is None:
            raise RedisConnectionError("not connected")
        incoming, outgoing = self._streams
        reader = self._reader
        replies: list[Any] = []
        try:
            outgoing.write(packed(commands))
            while len(replies) < len(commands):
                reply = reader.gets()
                if reply is not False:
                    if isinstance(reply, RedisConnectionError):
                        raise reply
                    replies.append(reply)
                    continue
                async with asyncio.timeout(self._read_timeout_s):
                    data = await incoming.read(1 << 18)
                if not data:
                    raise RedisConnectionError("Redis closed the connection")
                reader.feed(data)
        except BaseException:  # cancelled too: replies still under way would be taken for those of the next exchange
            self.abort()
            raise
        return replies

    async def reload(self) -> None:
        """Loads all scripts again, when the server has forgotten them. Raises ResponseError when it takes one not."""
        for reply in await self.call_all([("SCRIPT", "LOAD", source) for source, _ in SCRIPTS.values()]):
            if isinstance(reply, Exception):
                raise reply
