"""Servers with the roles of configs/redis.acl, as `penstock up` starts them: the embedded 6.2, and Debian's 7.0 where it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from broker.connection import Link, NoPermissionError
from broker.embedded import find_server, temporary_server
from tests.conftest import DEBIAN

Role = Callable[[str], Link]


class Guarded(msgspec.Struct, frozen=True):
    """A server with roles; `admin` may do everything."""

    kind: str
    url: str
    admin: Link

    def url_of(self, role: str) -> str:
        return self.url.replace("unix://", f"unix://{role}:{role}@")

    def denials(self) -> list[str]:
        """What the server has refused since the log was last emptied, as `user: command or key`."""
        rows = [dict(zip(row[::2], row[1::2], strict=True)) for row in self.admin.call("ACL", "LOG", 128)]
        return [f"{row[b'username'].decode()}: {row[b'reason'].decode()} {row[b'object'].decode()}" for row in rows]


@pytest.fixture(scope="session", params=["embedded", "debian"])
def guarded_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    if request.param == "debian" and not os.access(DEBIAN, os.X_OK):
        pytest.skip(f"{DEBIAN} is not installed: apt-get install redis-server runs these tests on Redis 7 too")
    binary = find_server() if request.param == "embedded" else DEBIAN
    folder = tmp_path_factory.mktemp(f"guarded-{request.param}")
    with temporary_server(folder, binary=binary, has_roles=True) as url:
        admin = Link(url.replace("unix://", "unix://admin:admin@"))
        admin.connect()
        yield Guarded(request.param, url, admin)
        admin.close()


@pytest.fixture
def guarded(guarded_server: Guarded) -> Guarded:
    """An empty server and an empty log of denials."""
    guarded_server.admin.call("FLUSHALL", "SYNC")
    guarded_server.admin.call("ACL", "LOG", "RESET")
    return guarded_server


@pytest.fixture
def role(guarded: Guarded) -> Iterator[Role]:
    """Links of a role, closed after the test."""
    links: list[Link] = []

    def connect(name: str) -> Link:
        link = Link(guarded.url_of(name), has_scripts=name != "monitor")
        link.connect()
        links.append(link)
        return link

    yield connect
    for link in links:
        link.close()


def is_refused(link: Link, *command: Any) -> bool:
    """Whether Redis answered NOPERM; any other answer means that the user might have done it."""
    (reply,) = link.call_all([command])
    # Redis 7 refuses DEBUG and MODULE LOAD to everybody, before it looks at rights
    is_off = isinstance(reply, Exception) and "command not allowed. If the enable-" in str(reply)
    return is_off or (isinstance(reply, NoPermissionError) and str(reply).startswith("NOPERM"))
