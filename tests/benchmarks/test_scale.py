"""What `make scale` makes of its figures. That they can be taken is seen by running it; here is only what is decided."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import sleeper
from benchmarks.scale import backlog, curves, edges, limit, payloads, pipe, producers, tables
from benchmarks.scale.cpu import Clock, Spent, cpu_s
from workers.artifact import open_artifact
from workers.backends import pytorch

QUIET: dict[str, Any] = {"shares": {"slot": 0.4, "redis": 0.3}, "counts": {"slot": 2}, "others": 0.0, "cores": 2}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shares": {"slot": 1.1, "redis": 0.8}}, "the machine's 2 cores"),
        ({"shares": {"slot": 0.9, "redis": 0.4}, "others": 0.6}, "other programs"),
        ({"shares": {"slot": 0.6, "redis": 0.9}}, "one core, the redis's"),
        ({"shares": {"slot": 0.9, "redis": 0.3}}, "waiting for each other"),
    ],
)
def test_the_limit_named_is_the_one_the_shares_show(changes: dict[str, Any], said: str) -> None:
    assert limit.bound(**QUIET | changes).startswith(said)


def test_what_was_lost_is_told_as_batches_not_full_and_time_without_a_forward() -> None:
    assert limit.of_model("", of_possible=0.95, fill=1.0).startswith("the model itself")
    assert "batches 75% full, a forward running 80% of the time" in limit.of_model("", of_possible=0.6, fill=0.75)


def test_a_drain_is_told_in_windows_of_equal_jobs_and_a_short_one_in_one() -> None:
    assert backlog.borders(100, 1_000_100, 4) == [250_100, 500_100, 750_100, 1_000_100]
    assert backlog.borders(0, 1_000, 4) == [1_000]


def test_the_first_jobs_are_timed_from_the_last_look_at_none() -> None:
    samples = [(0.0, 0), (1.0, 0), (1.1, 600), (1.5, 1_200), (2.0, 5_000)]

    assert backlog.rate_of_first(samples, 1_000) == pytest.approx(2_400)
    assert backlog.rate_of_first(samples[2:], 1_000) is None


def test_the_deepest_backlog_is_compared_with_the_mean_of_the_shallowest() -> None:
    rows = [{"backlog": depth, "held_jobs_per_s": speed} for depth, speed in ((1000, 110), (50_000, 95), (1000, 90))]

    assert backlog.ratio(rows) == 0.95
    assert backlog.ratio(rows[:1]) is None


@pytest.mark.parametrize(("count", "shares"), [(1, [1]), (5, [1] * 5), (7, [2, 2, 1, 1, 1]), (200, [40] * 5)])
def test_producers_are_spread_evenly_over_processes(count: int, shares: list[int]) -> None:
    assert producers.spread(count, 5) == shares


def test_a_percentile_of_one_value_is_that_value() -> None:
    assert producers.percentile([3.0], 99) == 3.0
    assert producers.percentile([float(value) for value in range(101)], 99) == 99.0


def test_the_largest_batch_fits_a_slab_at_every_size() -> None:
    for size in payloads.SIZES:
        assert edges.most_rows(size) * size <= edges.SLAB_BYTES
        assert pipe.at_once(size) * size <= max(size, pipe.CHUNK_BYTES)


def test_the_edges_of_a_row_are_answered(tmp_path: Path) -> None:
    row = np.arange(4096, dtype=np.uint32).astype(np.uint8)
    backend = pytorch.load(open_artifact(edges.build(tmp_path / "edges", 4096)), device="cpu", threads=1)

    outputs = backend.run({"x": row[None]})

    assert outputs["y"].tolist() == [[edges.answer(row)]]


def test_the_sleeper_sleeps_and_sums_its_rows(tmp_path: Path) -> None:
    artifact = open_artifact(sleeper.build(tmp_path / "sleeper", sleep_ms=20.0, features=3, max_rows=4))
    backend = pytorch.load(artifact, device="cpu", threads=1)

    started = time.perf_counter()
    outputs = backend.run({"x": np.array([[1, 2, 3], [4, 5, 6]], np.float32)})

    assert time.perf_counter() - started >= 0.02
    assert outputs["y"].tolist() == [[6.0], [15.0]]


def test_a_clock_counts_the_work_of_a_process_and_not_its_sleep() -> None:
    code = "import time\nwhile time.process_time() < 0.15: pass\nprint(flush=True)\ninput()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            clock = Clock({"one": [process.pid]})
            worked_s = cpu_s(process.pid)
            time.sleep(0.02)
            spent = clock.spent()
        finally:
            process.kill()

    assert worked_s >= 0.1
    assert spent.cpu_s["one"] < 0.05


def test_figures_are_told_per_job_and_as_cores() -> None:
    spent = Spent(took_s=2.0, cpu_s={"slot": 0.5}, others_s=0.2)

    assert spent.us_per(1_000) == {"slot": 500.0}
    assert spent.shares() == {"slot": 0.25}
    assert spent.others() == 0.1


def test_a_point_taken_twice_is_drawn_as_its_mean_and_a_missing_one_is_left_out() -> None:
    rows: list[dict[str, Any]] = [
        {"x": 2, "y": {"z": 10.0}},
        {"x": 1, "y": {"z": 4.0}},
        {"x": 2, "y": {"z": 20.0}},
        {"x": 3, "y": None},
    ]

    assert curves.line(rows, "x", "y.z") == [(1, 4.0), (2, 15.0)]


def test_the_page_holds_the_parts_that_were_measured_and_their_marks() -> None:
    about = {"date": "d", "machine": "m", "cores": 2, "load_1m": 0.0, "server": "s"}
    row = {
        "slots": 1,
        "percent_of_a_core_per_slot": 1.5,
        "percent_with_redis_per_slot": 1.7,
        "cores_used": {"slot": 0.015},
    }

    page = tables.page({"idle": {"about": about, "is_quick": True, "rows": [row]}})

    assert "## Idle pool" in page
    assert "quick run" in page
    assert "MISSED" in page
    assert "## Backlog" not in page
