"""A whole pool of real slots and engines under a real supervisord, on the embedded Redis."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker import settings
from broker.connection import Link
from broker.settings import Settings
from operators import pool, readiness
from tests import models


def quiet(_: str) -> None:
    pass


@pytest.fixture
def pooled() -> Iterator[Callable[..., Settings]]:
    """Starts a pool with the mlp model; the argument is added to pool.toml. It is taken down after the test.

    Without the runs program, which takes a second of a core to start, unless it is asked for.
    """
    # Not tmp_path: its name is too long for a socket.
    with tempfile.TemporaryDirectory(prefix="pool-", dir="/tmp") as name:
        folder = Path(name)
        started: list[Settings] = []

        def start(extra: str = "", *, slots: int = 2, runs: int = 0) -> Settings:
            models.mlp(folder / "mlp")
            (folder / "pool.toml").write_text(
                f'[pool]\nmost_slots = 4\nhost = "box"\n[runs]\nworkers = {runs}\n[models.mlp]\nartifact = "mlp"\nslots = {slots}\n{extra}'
            )
            chosen = settings.load(str(folder / "pool.toml"), environ={})
            started.append(chosen)
            pool.up(chosen, say=quiet)
            readiness.wait_until_ready(chosen, range(slots), timeout_s=60, say=quiet)
            return chosen

        yield start
        for chosen in started:
            pool.down(chosen, say=quiet)


@pytest.fixture
def pool_link() -> Iterator[Callable[[Settings], Link]]:
    """Links to a started pool's Redis, closed after the test."""
    links: list[Link] = []

    def connect(chosen: Settings) -> Link:
        link = Link(chosen.redis_url_as("operator"))
        link.connect_within(10)
        links.append(link)
        return link

    yield connect
    for link in links:
        link.close()
