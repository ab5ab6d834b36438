"""High-lane jobs beside a flood of the low lane whose batches take 20 ms: what the flood costs those who are in a hurry.

One client sends high-lane jobs one by one, at random moments of a batch, first to an idle slot and then to one with a low lane
that never runs dry.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import flood, report, sleeper
from benchmarks.latency import Latency, latency_of
from benchmarks.sizes import Size
from benchmarks.spread import Figures
from benchmarks.stand import slot
from broker.embedded import temporary_server
from producer import Producer

SLEEP_MS, MAX_ROWS = 20.0, 8
THINK_S = 2 * SLEEP_MS / 1e3
RESULT_WITHIN_S = 30.0
# Low jobs to every high one: all that a full slot forwards while one high job thinks and waits, with some to spare.
LOW_JOBS_EACH = 8 * MAX_ROWS
SEED = 4


def measure(folder: Path, size: Size, raw: Figures) -> Figures:
    """Alone, then under the flood."""
    artifact = sleeper.build(folder / "slow", sleep_ms=SLEEP_MS, max_rows=MAX_ROWS, name="slow")
    with (
        temporary_server(folder / "lanes") as url,
        slot(folder / "lanes", url, "slow", artifact) as stand,
        Producer(url) as producer,
    ):
        high(producer, stand.model, 10)  # warm-up
        alone = high(producer, stand.model, size.lane_jobs)
        low = producer.submit_many(
            stand.model, flood.rows(LOW_JOBS_EACH * size.lane_jobs, sleeper.FEATURES), lane="low"
        )
        time.sleep(10 * SLEEP_MS / 1e3)
        under = high(producer, stand.model, size.lane_jobs)
        if low[-1].status() == "done":
            raise RuntimeError("the low lane ran dry before the last high job; raise LOW_JOBS_EACH")
        about = report.about(stand.link)
        forward_ms = [handle.result(RESULT_WITHIN_S).timings.forward_ms for handle in low[:64]]
    raw["lanes"] = {"alone": alone, "under_low_flood": under}
    batch_ms = median(forward_ms)
    return {
        "high_lane_jobs": size.lane_jobs,
        "high_lane_p50_ms_alone": round(alone.p50_ms, 3),
        "high_lane_p99_ms_alone": round(alone.p99_ms, 3),
        "high_lane_p50_ms_under_low_flood": round(under.p50_ms, 3),
        "high_lane_p99_ms_under_low_flood": round(under.p99_ms, 3),
        "low_batch_ms": round(batch_ms, 3),
        **about,
        "high_lane_p99_added_low_batches": round((under.p99_ms - alone.p99_ms) / batch_ms, 3),
    }


def high(producer: Producer, model: str, jobs: int) -> Latency:
    """One high-lane job after another, each after a random pause."""
    random = np.random.default_rng(SEED)
    x = flood.rows(jobs, sleeper.FEATURES)
    took_ms = []
    for row in x:
        time.sleep(random.uniform(0, THINK_S))
        began = time.perf_counter()
        producer.infer(model, row, RESULT_WITHIN_S, lane="high")
        took_ms.append((time.perf_counter() - began) * 1e3)
    return latency_of(took_ms)
