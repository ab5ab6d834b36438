"""Bulk runs on a real pool: whatever is killed in their middle, rows out are rows in, each once, and what the model says of them."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from broker import roster, runs
from broker.connection import LOST, Link
from broker.errors import RedisUnavailable
from broker.runs import Request, View
from broker.settings import Settings
from operators.supervisor import Supervisor, is_alive
from producer import Producer
from tests.wait import wait_until

Start = Callable[..., Settings]
Connect = Callable[[Settings], Link]
Inputs = Callable[[int], tuple[Path, NDArray[np.float32]]]


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Writes a Parquet file of so many rows: `id`, and f0 to f63."""

    def write(count: int) -> tuple[Path, NDArray[np.float32]]:
        x = np.random.default_rng(count).normal(size=(count, 64)).astype(np.float32)
        columns = {f"f{number}": x[:, number] for number in range(64)}
        path = tmp_path / "input.parquet"
        pq.write_table(pa.table({"id": np.arange(count), **columns}), path, row_group_size=1000)
        return path, x

    return write


def request(source: Path, **changes: Any) -> Request:
    given: dict[str, Any] = {
        "input": str(source), "output": str(source.with_name("output.parquet")), "model": "mlp",
        "mapping": {"keys": ["id"], "inputs": {"x": ["f*"]}}, "host": "box",
    }  # fmt: skip
    return Request(**given | changes)


def submit(link: Link, wanted: Request) -> str:
    view, is_new = runs.submit(link, wanted, runs.run_id(wanted, "", ""))
    assert is_new
    return view.id


def ended(link: Link, run: str, *, timeout: float = 60) -> View:
    """The run once it has ended, however often Redis goes away meanwhile."""
    last: list[View] = []

    def is_over() -> bool:
        try:
            if link.fileno() < 0:
                link.connect()
            last[:] = [runs.view(link, run)]
        except (*LOST, RedisUnavailable):
            link.close()
            return False
        return last[0].is_final

    wait_until(is_over, f"run {run} ends", timeout=timeout)
    return last[0]


def require_whole(chosen: Settings, output: Path, x: NDArray[np.float32]) -> None:
    """Each row once, in order, with what the model says of it."""
    scored = pq.read_table(output)
    assert scored["id"].to_pylist() == list(range(len(x)))
    assert scored["error"].null_count == len(x)
    with Producer(chosen.redis_url) as producer:
        parts = [x[at : at + 1000] for at in range(0, len(x), 1000)]
        wanted = np.concatenate([one["logits"] for one in producer.map("mlp", parts, timeout=30)])
    assert scored["prediction"].to_pylist() == wanted.argmax(axis=1).tolist()
    assert np.allclose(scored["confidence"].to_numpy(), wanted.max(axis=1), atol=1e-5)


def program_pid(link: Link) -> int:
    """Of the program that lives; a beat outlives its program by seconds."""
    return wait_until(lambda: next((one.pid for one in runs.beats(link) if is_alive(one.pid)), 0), "a program lives")


def kill_program(chosen: Settings, link: Link) -> None:
    os.kill(program_pid(link), signal.SIGKILL)


def end_program(chosen: Settings, link: Link) -> None:
    os.kill(program_pid(link), signal.SIGTERM)


def kill_slot(chosen: Settings, link: Link) -> None:
    os.kill(int(roster.slots(link)["box/0"]["pid"]), signal.SIGKILL)


def kill_redis(chosen: Settings, link: Link) -> None:
    os.kill(Supervisor(chosen).redis().pid, signal.SIGKILL)


def test_a_run_goes_on_after_kill_9_of_its_program_a_slot_and_redis_and_after_term(
    pooled: Start, pool_link: Connect, inputs: Inputs
) -> None:
    # given
    chosen = pooled(slots=1, runs=1)
    link = pool_link(chosen)
    source, x = inputs(16_000)
    run = submit(link, request(source, rate=4000.0))
    # when
    for done, kill in ((1000, kill_program), (4000, kill_slot), (6000, end_program), (9000, kill_redis)):
        wait_until(lambda done=done: progress(link, run) >= done, f"{done} rows are written", timeout=30)
        kill(chosen, link)
    view = ended(link, run)
    # then
    assert (view.state, view.rows_done, view.rows_failed) == ("done", 16_000, 0), view.error
    require_whole(chosen, source.with_name("output.parquet"), x)
    assert [one.name for one in source.parent.iterdir() if "run-" in one.name] == [], "no parts are left"


def progress(link: Link, run: str) -> int:
    try:
        if link.fileno() < 0:
            link.connect()
        return runs.view(link, run).rows_done
    except (*LOST, RedisUnavailable):
        link.close()
        return 0


@pytest.mark.slow
def test_20_kills_at_random_points_lose_no_row_and_write_none_twice(
    pooled: Start, pool_link: Connect, inputs: Inputs
) -> None:
    chosen = pooled(slots=1, runs=1)
    link = pool_link(chosen)
    source, x = inputs(100_000)
    run = submit(link, request(source, rate=1200.0))
    moments, kills = random.Random(5), 0
    # when
    for kill in itertools.islice(itertools.cycle((kill_program, kill_slot, kill_program, kill_redis)), 20):
        time.sleep(moments.uniform(0.5, 3.0))  # any moment is as good
        wait_until(lambda: progress(link, run) >= 0 and is_whole(link), "Redis and the program are back", timeout=60)
        kills += not runs.view(link, run).is_final
        kill(chosen, link)
    view = ended(link, run, timeout=180)
    # then
    assert kills == 20, "the run had ended before the last one"
    assert (view.state, view.rows_done, view.rows_failed) == ("done", 100_000, 0), view.error
    require_whole(chosen, source.with_name("output.parquet"), x)


def is_whole(link: Link) -> bool:
    try:
        if link.fileno() < 0:
            link.connect()
        return bool(runs.beats(link)) and bool(roster.slots(link).get("box/0"))
    except (*LOST, RedisUnavailable):
        link.close()
        return False
