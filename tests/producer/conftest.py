"""A real Redis on a unix socket, with one model published in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker import spec
from broker.connection import Link
from broker.queue import Queue
from broker.spec import Limits
from producer import Producer
from tests.producer.fake import Worker, model_spec, wait_until

SERVER = Path(sys.executable).parent / "redis-server"


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("redis")
    path = folder / "redis.sock"
    process = subprocess.Popen(
        [SERVER, "--port", "0", "--unixsocket", path, "--dir", folder, "--save", "", "--logfile", folder / "log"]
    )
    url = f"unix://{path}"
    try:
        wait_until(path.exists)
        yield url
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def link(redis_url: str) -> Iterator[Link]:
    link = Link(redis_url)
    link.connect()
    link.call("FLUSHALL")
    link.call("CONFIG", "SET", "maxmemory", 0)
    yield link
    link.close()


@pytest.fixture
def publish(link: Link) -> Callable[..., None]:
    """Publishes the model; `max_jobs` and so on are limits, all else replaces a field of its spec."""

    def publish(*, limits: Limits | None = None, **changes: Any) -> None:
        published = model_spec(**changes)
        spec.publish(link, published, limits or Limits())
        Queue(published.name, "none").ensure_groups(link)

    publish()
    return publish


@pytest.fixture
def producer(redis_url: str, publish: Callable[..., None]) -> Iterator[Producer]:
    with Producer(redis_url) as producer:
        yield producer


@pytest.fixture
def worker(redis_url: str, publish: Callable[..., None]) -> Iterator[Worker]:
    with Worker(redis_url) as worker:
        yield worker
