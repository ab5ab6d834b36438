"""Real Redis for every test that asks: the embedded 6.2, and Debian's 7.0 where it is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from broker.connection import Link
from broker.embedded import find_server, temporary_server
from tests.key_leaks import leaked_keys

DEBIAN = Path("/usr/bin/redis-server")


class RedisServer(msgspec.Struct, frozen=True):
    """One running server; `admin` is a link of the fixtures' own, tests make theirs."""

    kind: str  # embedded or debian
    url: str
    admin: Link


@pytest.fixture(scope="session", params=["embedded", "debian"])
def redis_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for the session, once per kind."""
    if request.param == "debian" and not os.access(DEBIAN, os.X_OK):
        pytest.skip(f"{DEBIAN} is not installed: apt-get install redis-server runs these tests on Redis 7 too")
    binary = find_server() if request.param == "embedded" else DEBIAN
    with temporary_server(tmp_path_factory.mktemp(f"redis-{request.param}"), binary=binary) as url:
        admin = Link(url)
        admin.connect()
        yield RedisServer(request.param, url, admin)
        admin.close()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> Iterator[str]:
    """An empty server without a memory limit. Afterwards every key must have a TTL or be in the permanent list."""
    admin = redis_server.admin
    admin.call("CONFIG", "SET", "maxmemory", 0)
    admin.call("FLUSHALL", "SYNC")
    yield redis_server.url
    admin.call("CONFIG", "SET", "maxmemory", 0)
    leaks = leaked_keys(admin)
    assert not leaks, f"keys without a TTL that are not in keys.PERMANENT: {leaks}"


@pytest.fixture
def link(redis_url: str) -> Iterator[Link]:
    """A connected link."""
    link = Link(redis_url)
    link.connect()
    yield link
    link.close()
