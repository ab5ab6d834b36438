"""Passwords in Redis URLs work, and what is refused is one line without them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from broker.aconnection import AsyncLink
from broker.connection import Link, safe_url
from broker.errors import PenstockError, RedisRefused, RedisUnavailable
from producer import AsyncProducer, Producer
from tests.security.servers import QUOTED, told
from tests.security.servers import locked as locked


@pytest.mark.parametrize("url", ["redis://:{}@127.0.0.1:{}", "redis://worker:{}@127.0.0.1:{}/0"])
def test_a_password_in_the_url_lets_both_links_in(url: str, locked: int) -> None:
    url = url.format(QUOTED, locked)
    link = Link(url)
    link.connect()
    assert link.call("PING") == b"PONG"
    link.close()

    async def ask() -> bytes:
        other = AsyncLink(url)
        await other.connect()
        answer: bytes = await other.call("PING")
        await other.close()
        return answer

    assert asyncio.run(ask()) == b"PONG"


@pytest.mark.parametrize("user", ["worker:wrong-s3cret", ":wrong-s3cret", "nobody:wrong-s3cret", ""])
def test_a_wrong_password_is_one_clear_line_at_once(user: str, locked: int) -> None:
    url = f"redis://{user + '@' if user else ''}127.0.0.1:{locked}"
    with pytest.raises(RedisRefused) as caught:
        Link(url).connect_within(30)
    assert "refused us" in told(caught.value)
    assert "check the user and password in its URL" in told(caught.value)

    async def ask() -> None:
        await AsyncLink(url).connect_within(30)

    with pytest.raises(RedisRefused) as caught:
        asyncio.run(ask())
    assert "refused us" in told(caught.value)
    with Producer(url) as producer, pytest.raises(RedisRefused):
        producer.submit("mlp", np.zeros(4, np.float32))


@pytest.mark.parametrize(
    "ask_for",
    [
        lambda producer: producer.submit("mlp", np.zeros(4, np.float32)),
        lambda producer: producer.result("mlp:abc-1", timeout=1),
        lambda producer: producer.handle("mlp:abc-1").status(),
    ],
    ids=["submit", "result", "status"],
)
def test_a_user_without_the_right_gets_one_clear_line_from_both_producers(
    ask_for: Callable[[Producer], object], locked: int
) -> None:
    url = f"redis://monitor:{QUOTED}@127.0.0.1:{locked}"
    with Producer(url) as producer, pytest.raises(RedisRefused) as caught:
        ask_for(producer)
    assert "refused us" in told(caught.value)
    assert "ACL" in told(caught.value)

    async def ask() -> None:
        async with AsyncProducer(url) as other:
            await other.submit("mlp", np.zeros(4, np.float32))

    with pytest.raises(RedisUnavailable) as caught:
        asyncio.run(ask())
    assert "refused us" in told(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2@s3cret@host:6379/0", "redis://:s3cret@host", "unix://worker:s3cret@/tmp/x.sock",
        "unix:///tmp/x.sock?password=s3cret", "unix:///tmp/x.sock?username=a&password=s3cret&db=1",
        "rediss://host:1/0?ssl_ca_certs=/ca.pem&ssl_password=s3cret", "redis://host?password=s3cret&db=0",
        "redis://user:hunter2/s3cret@host:6379", "redis://user:hunter2#s3cret@host:6379", "nonsense://a:s3cret@host",
        "redis://user:s3cret@host:port", "redis://user:s3cret@host?socket_timeout=x", "redis+sentinel://u:s3cret@h:1/x/0",
    ],
)  # fmt: skip
def test_no_url_is_shown_with_its_password(url: str) -> None:
    assert "s3cret" not in safe_url(url)
    for make in (Link, AsyncLink):
        try:
            make(url)
        except PenstockError as error:
            told(error)
