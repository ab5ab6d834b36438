"""The figures of a bench run in the order they are read, and the marks they should reach. Pure: a dict in, a table out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import report

# figure, key, digits, bound
ROWS: tuple[tuple[str, str, int, dict[str, float]], ...] = (
    ("flood, jobs/s", "flood_jobs_per_s", 0, {}),
    ("  bare loop, redis-py", "bare_jobs_per_s", 0, {}),
    ("  ratio", "flood_ratio", 2, {"least": 0.65}),
    ("  bare loop, raw socket", "raw_bare_jobs_per_s", 0, {}),
    ("  ratio", "flood_ratio_to_raw", 2, {}),
    ("one in flight, p50 ms", "one_in_flight_p50_ms", 3, {}),
    ("  bare loop, redis-py", "bare_one_in_flight_p50_ms", 3, {}),
    ("  ratio", "one_in_flight_p50_ratio", 2, {"most": 2.0}),
    ("  bare loop, raw socket", "raw_bare_one_in_flight_p50_ms", 3, {}),
    ("  ratio", "one_in_flight_p50_ratio_to_raw", 2, {}),
    ("  p99 ms", "one_in_flight_p99_ms", 3, {}),
    ("  bare loop p99 ms", "bare_one_in_flight_p99_ms", 3, {}),
    ("CPU us a job: producer", "cpu_us_per_job_producer", 1, {}),
    ("  slot", "cpu_us_per_job_slot", 1, {}),
    ("  engine", "cpu_us_per_job_engine", 1, {}),
    ("  redis", "cpu_us_per_job_redis", 1, {}),
    ("Redis commands a job", "redis_commands_per_job", 1, {}),
    ("bytes in Redis above payload, queued", "queued_overhead_bytes", 0, {"most": 250}),
    ("  above result, finished", "finished_overhead_bytes", 0, {"most": 300}),
    ("magika, files/s", "magika_files_per_s", 0, {}),
    ("  bare session by 16", "bare_magika_16_files_per_s", 0, {}),
    ("  bare session by 32", "bare_magika_32_files_per_s", 0, {}),
    ("  ratio to the faster", "magika_ratio", 3, {"least": 0.95}),
    ("  mean batch", "magika_mean_batch", 1, {"least": 16}),
    ("retirements", "retirements", 0, {"least": 36}),
    ("  least ready slots", "ready_least", 0, {"least": 1}),
    ("  lost", "retire_lost", 0, {"most": 0}),
    ("  answered twice", "retire_twice", 0, {"most": 0}),
    ("  failed", "retire_failed", 0, {"most": 0}),
    ("  programs FATAL", "retire_fatal", 0, {"most": 0}),
)
MUST_BE_ZERO = ("retire_lost", "retire_twice", "retire_failed", "retire_fatal")


def table(figures: dict[str, Any]) -> str:
    """What was measured, with the marks it should reach."""
    rows: list[Sequence[str]] = [("figure", "value", "wanted")]
    for text, key, digits, bound in ROWS:
        if key in figures:
            wanted = report.verdict(figures[key], **bound) if bound else ""
            rows.append((text, report.figure(figures[key], digits), wanted))
    return "\n".join(
        (
            report.table(rows),
            "",
            f"{figures['machine']}, {figures['cores']} cores, load {figures['load_1m']:.1f}; {figures['server']}",
        )
    )
