"""A pool's Redis with one model published, the command as it is typed, and small inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from broker import keys, run_lease, spec
from broker.connection import Link
from broker.queue import Queue
from broker.rq_redis import rq_client
from broker.settings import Settings, load
from broker.spec import Limits, ModelSpec, TensorSpec
from operators.runs.worker import Redis

MODEL = "double"
HOST = "box"
ROWS = 250

Penstock = Callable[..., tuple[int, str, str]]


@pytest.fixture
def link(redis_url: str) -> Iterator[Link]:
    link = Link(redis_url)
    link.connect()
    link.call("FLUSHALL")
    published = ModelSpec(
        name=MODEL, version="1", takes="tensors", max_rows=64,
        inputs=(TensorSpec("x", "float32", (4,)),), outputs=(TensorSpec("y", "float32", (4,)),),
    )  # fmt: skip
    spec.publish(link, published, Limits())
    Queue(MODEL, "none").ensure_groups(link)
    yield link
    link.close()


@pytest.fixture
def config(link: Link, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PENSTOCK_REDIS_URL", "PENSTOCK_HOST", "PENSTOCK_VAR_DIR"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "pool.toml"
    config.write_text(
        f'[redis]\nurl = "{redis_url}"\n[pool]\nhost = "{HOST}"\n[models.{MODEL}]\nartifact = "{MODEL}"\n'
    )
    monkeypatch.setenv("PENSTOCK_CONFIG", str(config))
    return config


@pytest.fixture
def penstock(config: Path, typed: Penstock) -> Penstock:
    """The command as typed, in this process: (exit code, stdout, stderr)."""
    return typed


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A Parquet file: id, f0 .. f3."""
    columns = {"id": list(range(ROWS))} | {f"f{one}": [float(row + one) for row in range(ROWS)] for one in range(4)}
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def program(link: Link) -> None:
    """A program of this host that works runs has just said that it lives; it works none."""
    beat(link, HOST)


def beat(link: Link, host: str) -> None:
    run_lease.beat(link, host, "runs_00", pid=1, run="")


def stands(link: Link, run: str, **fields: object) -> None:
    """Makes a run look so, as the program that works it would: all at once."""
    link.call("HSET", keys.run(run), *(str(part) for pair in fields.items() for part in pair))


@pytest.fixture
def connection(link: Link, redis_url: str) -> Iterator[Redis]:
    connection = rq_client(redis_url)
    yield connection
    connection.flushall()  # RQ's own keys live for ever
    connection.close()


@pytest.fixture
def settings(config: Path, rows: Path) -> Settings:
    """Nightly at 13:00, of a day's file."""
    config.write_text(
        config.read_text()
        + f'[schedules.nightly]\ncron = "0 13 * * *"\ninput = "day-{{date}}.parquet"\nmodel = "{MODEL}"\n'
        'output = "scored-{date}.parquet"\nmapping = "map.toml"\n'
    )
    (config.parent / "map.toml").write_text('[inputs]\nx = "f*"\n')
    rows.rename(config.parent / "day-2026-03-01.parquet")
    return load()
