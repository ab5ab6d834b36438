"""One socket to Redis, owned by one thread, with no hidden retries: whoever holds a Link owns its loop.

A Link speaks commands and our scripts. Replies come back in the order of the commands, so several may be under way.
Not a pool and not a client: the slot must know when a command was sent and when its answer was lost.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import hiredis
from redis.exceptions import AuthenticationError, AuthorizationError, InvalidResponse, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError as NoPermissionError
from redis.exceptions import NoScriptError as NoScriptError
from redis.exceptions import ResponseError as ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from broker.address import lost, make_pool, not_redis, sentinels_of
from broker.address import safe_url as safe_url
from broker.errors import RedisRefused, RedisUnavailable
from broker.packed import Arg as Arg
from broker.packed import Command as Command
from broker.packed import buffers
from broker.replies import is_missing_group as is_missing_group
from broker.replies import is_out_of_memory as is_out_of_memory
from broker.replies import read_error
from broker.script import SCRIPTS as SCRIPTS
from broker.script import evalsha as evalsha
from broker.sockets import Patience

# What a lost connection looks like; everything else from Redis is an answer.
LOST = (RedisConnectionError, RedisTimeout, OSError)
SILENT = (RedisTimeout, TimeoutError)  # of these, a server that is there and does not answer

READ_TIMEOUT_S = 5.0
SEND_BUFFER_BYTES = 1 << 20  # of a unix socket: in the usual 200 KB a large result waits twice for Redis to read
START_IT = "start it, or set redis.url in pool.toml or PENSTOCK_REDIS_URL"  # the mend of a server that is away


def refused(url: str, error: object) -> RedisRefused:
    """The error of a user whom Redis does not let in, or not do what its program must."""
    return RedisRefused(
        f"Redis at {safe_url(url)} refused us: {error}; check the user and password in its URL, and that user's ACL "
        "(docs/security.md)"
    )


class Link:
    """A connection to Redis that reconnects only when told to."""

    def __init__(self, url: str, *, read_timeout_s: float = READ_TIMEOUT_S, has_scripts: bool = True) -> None:
        """`url`: redis://, rediss://, unix:// or redis+sentinel://. Raises RedisUnavailable when it is none of these.

        `has_scripts` False is for who only reads, and may not load any.
        """
        self.url = url
        self._has_scripts = has_scripts
        # redis-py finds the server (address, TLS, AUTH, SELECT); the bytes then go straight through hiredis, because
        # its per-command bookkeeping costs as much as the round trip.
        pool = make_pool(url, read_timeout_s=read_timeout_s)
        self._connection: Any = pool.make_connection()
        self._sentinels = sentinels_of(pool)
        self._socket: socket.socket | None = None
        self._patience: Patience
        self.is_watched = False  # whoever reads was told by a poll of its own that there is something
        self._reader: Any = None
        self._buffer = bytearray(1 << 18)
        self._read_timeout_s = read_timeout_s
        self.expected = 0  # replies not read yet

    def connect(self) -> None:
        """Connects, authenticates and loads the scripts. Raises one of LOST (also while the server loads), or
        RedisUnavailable when refused."""
        self.close()
        try:
            self._connection.connect()
            for sentinel in self._sentinels:
                sentinel.close()  # asked again only at the next connect
            self._socket = self._connection._sock
            if self._socket.family == socket.AF_UNIX:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            self._patience = Patience(self._socket, self._read_timeout_s)
            self._reader = hiredis.Reader(protocolError=RedisConnectionError, replyError=read_error)
            # Asked first, not loaded at once: Redis 6.2 writes each SCRIPT LOAD to its append-only file.
            if self._has_scripts and not all(
                self.call("SCRIPT", "EXISTS", *(digest for _, digest in SCRIPTS.values()))
            ):
                self.reload()
        except RedisError as error:
            self.close()
            if isinstance(error, InvalidResponse) or "Protocol error" in str(error):
                raise not_redis(self.url) from None
            is_refusal = isinstance(error, AuthenticationError | AuthorizationError | ResponseError)
            if isinstance(error, LOST) and not is_refusal:
                raise lost(self.url, error) from None
            raise refused(self.url, error) from None
        except OSError:
            self.close()
            raise

    def connect_within(self, seconds: float, *, wait: Callable[[float], Any] = time.sleep) -> None:
        """Connects, trying again with back-off and jitter for `seconds`. Raises RedisUnavailable at their end."""
        deadline = time.monotonic() + seconds
        pause = 0.05
        while True:
            try:
                self.connect()
                return
            except LOST as error:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise RedisUnavailable(
                        f"no Redis at {safe_url(self.url)} within {round(seconds, 1 if seconds > 1 else 2):g} s ({error}); "
                        f"{START_IT}"
                    ) from None
                wait(min(left, pause * random.uniform(0.5, 1.5)))
                pause = min(pause * 2, 2.0)

    def close(self) -> None:
        self.expected = 0
        self._socket = self._reader = None
        self._connection.disconnect()

    def fileno(self) -> int:
        """The socket, for poll; -1 when not connected."""
        return self._socket.fileno() if self._socket is not None else -1

    def send(self, *commands: Command) -> None:
        """Sends commands without waiting. Raises one of LOST; nothing tells then whether they ran."""
        if self._socket is None:
            raise RedisConnectionError("not connected")
        try:
            self._patience.send_all(buffers(commands))
        except OSError:
            self.close()
            raise
        self.expected += len(commands)

    def read(self) -> Any:
        """The next reply, as bytes, ints and lists. Raises ResponseError for an error reply, one of LOST otherwise."""
        if self._socket is None:
            raise RedisConnectionError("not connected")
        reply = self._reader.gets()
        if reply is False:
            reply = self._receive()
        self.expected -= 1
        if isinstance(reply, RedisError):
            if isinstance(reply, RedisConnectionError):
                self.close()  # as good as away: what else is under way will not be of use either
            raise reply
        return reply

    def _receive(self) -> Any:
        reader, buffer, is_there = self._reader, self._buffer, self.is_watched
        try:
            while True:
                count = self._patience.receive_into(buffer, is_there=is_there)
                is_there = False  # Redis 6.2 may write one answer in two parts
                if count == 0:
                    raise RedisConnectionError("Redis closed the connection")
                reader.feed(buffer, 0, count)
                reply = reader.gets()
                if reply is not False:
                    return reply
        except LOST:
            self.close()
            raise

    def has_reply(self) -> bool:
        """Whether bytes of a further reply are at hand already, so that poll would not report them."""
        return self.expected > 0 and self._reader is not None and self._reader.has_data()

    def call(self, *command: Arg) -> Any:
        """Sends one command and reads its reply."""
        self.send(command)
        return self.read()

    def call_all(self, commands: Sequence[Command]) -> list[Any]:
        """One round trip; error replies are returned, not raised."""
        self.send(*commands)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(self.read())
            except ResponseError as error:
                replies.append(error)
        return replies

    def run_all(self, commands: Sequence[Command]) -> list[Any]:
        """As `call_all`, for commands that may be repeated: all are sent again when the server had forgotten a script."""
        replies = self.call_all(commands)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            self.reload()
            replies = self.call_all(commands)
        return replies

    def script(self, name: str, keys: Sequence[Arg], args: Iterable[Arg]) -> Any:
        """Runs a script; loads it again when the server has forgotten it (SCRIPT FLUSH, failover)."""
        command = evalsha(name, keys, args)
        try:
            return self.call(*command)
        except NoScriptError:
            self.reload()
            return self.call(*command)

    def reload(self) -> None:
        """Loads all scripts again. Raises ResponseError when the server takes one not."""
        for reply in self.call_all([("SCRIPT", "LOAD", source) for source, _ in SCRIPTS.values()]):
            if isinstance(reply, ResponseError):
                raise reply
