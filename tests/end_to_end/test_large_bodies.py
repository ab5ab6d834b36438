"""Large data through real slot processes, from each store: killed and started again, nothing is lost and nothing is left behind."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker import keys, roster
from broker.bodies_store import BodyStore, open_store
from broker.connection import Link
from broker.embedded import temporary_server
from broker.roster import Assignment
from producer import AsyncProducer, Producer
from tests import models
from tests.broker.apart import lying
from tests.wait import wait_until

ROWS = np.random.default_rng(1).normal(size=(40, 64)).astype(np.float32)  # 10 KB, and one row of it is 256 bytes
TIMEOUT_S = 30


class Slot:
    """Slot 0 of host h as its own process, serving the mlp with the given store."""

    def __init__(self, folder: Path, url: str, location: str) -> None:
        self.url = url
        self.store: BodyStore | None = open_store(location)
        self.link = Link(url)
        self.link.connect()
        models.mlp(folder / "mlp")
        self._config = folder / "pool.toml"
        self._config.write_text(
            f'[redis]\nurl = "{url}"\n[pool]\nhost = "h"\n[slot]\nbeat_s = 0.1\nlease_s = 0.6\nblock_ms = 100\n'
            f'[queue]\nlarge_bytes = 1000\nbodies = "{location}"\n[models.mlp]\nartifact = "mlp"\n'
        )
        roster.assign(self.link, "h", 0, Assignment("mlp", str(folder / "mlp")))
        self._log = (folder / "slot.log").open("wb")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "workers", "--slot", "0", "--config", str(self._config)], stderr=self._log
        )

    def wait_until_ready(self) -> None:
        wait_until(lambda: roster.ready(self.link, "mlp"), "the slot is ready", timeout=TIMEOUT_S)

    def end(self, sign: signal.Signals = signal.SIGTERM) -> int:
        assert self._process is not None
        self._process.send_signal(sign)
        return self._process.wait(TIMEOUT_S)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.end(signal.SIGKILL)
        self._log.close()
        self.link.close()

    def bodies(self) -> list[str]:
        if self.store is not None:
            return lying(self.store)
        return [name.decode() for name in self.link.call("KEYS", keys.body("mlp", "*"))]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with temporary_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["redis", "folder", "url"])
def slot(request: pytest.FixtureRequest, tmp_path: Path, url: str) -> Iterator[Slot]:
    admin = Link(url)
    admin.connect()
    admin.call("FLUSHALL")
    admin.close()
    slot = Slot(
        tmp_path, url, {"redis": "redis", "folder": f"{tmp_path}/b", "url": f"file://{tmp_path}/b"}[request.param]
    )
    slot.start()
    yield slot
    slot.close()


def test_large_jobs_are_answered_through_kills_and_their_bodies_go(slot: Slot) -> None:
    # given
    slot.wait_until_ready()
    with Producer(slot.url) as producer:
        small = [producer.infer("mlp", row, TIMEOUT_S)["logits"] for row in ROWS]
        wanted = np.array(small)

        async def from_tasks() -> list[Any]:
            async with AsyncProducer(slot.url) as others:
                return await asyncio.gather(*(others.infer("mlp", ROWS, TIMEOUT_S) for _ in range(20)))

        # when: some are answered, some wait while the slot is killed, some come while none lives
        results = [producer.infer("mlp", ROWS, TIMEOUT_S), *asyncio.run(from_tasks())]
        handles = producer.submit_many("mlp", [ROWS] * 100)
        slot.end(signal.SIGKILL)
        handles += producer.submit_many("mlp", [ROWS] * 20)
        assert slot.bodies()
        slot.start()
        results += [handle.result(TIMEOUT_S) for handle in handles]
    # then
    for result in results:
        np.testing.assert_allclose(result["logits"], wanted, rtol=1e-4, atol=1e-5)
    wait_until(lambda: not slot.bodies(), "all bodies are gone", timeout=TIMEOUT_S)
    # a note goes after its body, so that a crash in between is repeated
    wait_until(lambda: slot.link.call("KEYS", keys.bodies("mlp", "*")) == [], "their notes too", timeout=TIMEOUT_S)
    assert int(slot.link.call("HGET", keys.counters("mlp"), "bytes")) == 0
    assert slot.end() == 0


def test_a_store_that_cannot_be_used_ends_the_slot_with_one_line(tmp_path: Path, url: str) -> None:
    # given
    location = f"{tmp_path}/b"
    slot = Slot(tmp_path, url, location)
    (tmp_path / "file").write_text("")
    config = tmp_path / "pool.toml"
    config.write_text(config.read_text().replace(location, f"{tmp_path}/file/bodies"))
    # when
    slot.start()
    assert slot._process is not None
    code = slot._process.wait(TIMEOUT_S)
    slot.close()
    # then
    said = (tmp_path / "slot.log").read_text()
    assert (code, "queue.bodies: large bodies stand in the folder" in said) == (78, True)
    assert "Traceback" not in said
