"""A pool inside your test process: real slots on a real embedded Redis, no supervisord, no GPU, no spawn.

    def test_scoring(penstock_pool):                # pytest finds the fixture by itself once penstock is installed
        pool = penstock_pool("models/fraud")
        with Producer(pool.url) as producer:
            assert producer.infer("fraud", x, timeout=5)["score"] > 0.5

Each slot is a thread that runs its model inline, so that a debugger steps into it. Without pytest use `local_pool`.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from broker.settings import Settings
    from workers.life import Life

READY_WITHIN_S = 60.0


@dataclass
class LocalPool:
    """A running pool: `url` for a Producer, `settings` it runs with, and its slots' lives."""

    url: str
    settings: Settings
    lives: list[Life] = field(default_factory=list)


@contextlib.contextmanager
def local_pool(
    *artifacts: str | Path,
    slots: int = 1,
    device: str = "cpu",
    redis_url: str | None = None,
    is_inline: bool = True,
    **sections: Any,
) -> Iterator[LocalPool]:
    """Serves each artifact with `slots` slots until the block ends; they are drained then.

    `redis_url` uses that server instead of an embedded one. `sections` override settings as in pool.toml:
    local_pool("models/fraud", queue={"max_jobs": 10}). Raises what a slot that cannot start would say.
    """
    import msgspec

    from broker import embedded, roster
    from broker.connection import Link
    from broker.errors import ArtifactError, ConfigError
    from broker.roster import Assignment
    from broker.settings import Settings
    from workers import trust
    from workers.artifact import parse
    from workers.life import Life

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-")))
        url = redis_url or stack.enter_context(embedded.temporary_server(folder / "redis"))
        parsed = {str(artifact): parse(artifact) for artifact in artifacts}
        for one in parsed.values():
            trust.add(one, folder / "trusted.txt")  # naming it here is looking at it
        names = {path: one.manifest.name for path, one in parsed.items()}
        raw: dict[str, Any] = {
            "slot": {"block_ms": 100, **sections.get("slot", {})},  # a slot hears of its end within a read
            **{name: section for name, section in sections.items() if name not in ("slot", "redis", "pool")},
            "redis": {"url": url, **sections.get("redis", {})},
            "pool": {
                "var_dir": str(folder),
                "host": f"local-{folder.name[-6:]}",
                "trusted": str(folder / "trusted.txt"),
                **sections.get("pool", {}),
            },
            "models": {name: {"artifact": path, "slots": slots, "device": device} for path, name in names.items()},
        }
        try:
            settings = msgspec.convert(raw, Settings)
        except msgspec.ValidationError as error:
            raise ConfigError(f"local_pool: {error}; the sections and keys are those of pool.toml") from None
        link = Link(url)
        link.connect_within(10)
        stack.callback(link.close)
        pool = LocalPool(url, settings)
        failures: list[BaseException] = []
        threads = []
        for name, model in settings.models.items():
            roster.want(link, settings.host, name, slots)
            for _ in range(slots):
                number = len(pool.lives)
                artifact = str(Path(model.artifact).absolute())
                roster.assign(link, settings.host, number, Assignment(name, artifact, model.device))
                life = Life(settings, number, is_inline=is_inline)
                pool.lives.append(life)
                threads.append(threading.Thread(target=_live, args=(life, failures), name=f"slot-{number}"))
        try:
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + READY_WITHIN_S
            while not all(len(roster.ready(link, name)) >= slots for name in settings.models):
                if failures:
                    raise failures[0]
                said = [life.board.reason for life in pool.lives if life.has_ended and life.board.reason]
                if said or time.monotonic() > deadline:
                    raise ArtifactError(said[0] if said else f"the pool was not ready within {READY_WITHIN_S:g} s")
                time.sleep(0.005)
            yield pool
        finally:
            for life in pool.lives:
                life.stop()
            for thread in threads:
                if thread.ident is not None:
                    thread.join(30)


def _live(life: Life, failures: list[BaseException]) -> None:
    try:
        life.live()
    except BaseException as error:  # noqa: BLE001 - a thread's edge: local_pool raises it where the test can see it
        failures.append(error)
    finally:
        life.has_ended = True


@pytest.fixture
def penstock_pool() -> Iterator[Callable[..., LocalPool]]:
    """Starts a local pool, see `local_pool` for the arguments; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(*artifacts: str | Path, **options: Any) -> LocalPool:
            return stack.enter_context(local_pool(*artifacts, **options))

        yield start
