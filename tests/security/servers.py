"""Servers that listen on a port, with passwords: as a shared Redis does."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker import acl
from broker.connection import Link
from broker.embedded import find_server
from tests.wait import wait_until

SECRET = "hunter2@s3cret"
QUOTED = "hunter2%40s3cret"


@contextmanager
def server(folder: Path, binary: Path, *options: str) -> Iterator[int]:
    """A redis-server on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = [option.format(port=port) for option in options]
    log = (folder / "redis.log").open("wb")
    command = [str(binary), "--save", "", "--dir", str(folder), "--bind", "127.0.0.1", *place]
    process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(port) or process.poll() is not None, "the server listens", timeout=10)
        assert process.poll() is None, (folder / "redis.log").read_text()[-300:]
        yield port
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def told(error: BaseException) -> str:
    """The text of an error that must be one line without the password."""
    text = str(error)
    assert "\n" not in text
    assert SECRET not in text
    assert QUOTED not in text
    assert "s3cret" not in text
    return text


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server whose users have passwords, loaded as docs/security.md says; `default` is off."""
    with server(tmp_path_factory.mktemp("locked"), find_server(), "--port", "{port}") as port:
        link = Link(f"redis://127.0.0.1:{port}")
        link.connect()
        for line in acl.commands((6, 2)):
            link.call(*line.split())
        for role in acl.ROLES:
            link.call("ACL", "SETUSER", role, f">{SECRET}")
        link.call("ACL", "SETUSER", "old", "on", f">{SECRET}", "+@all", "~*")
        link.call("ACL", "SETUSER", "default", "resetpass", f">{SECRET}")
        link.close()
        yield port
