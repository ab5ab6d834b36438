"""The figures of a bench run in the order they are read, and the marks they should reach. Pure: a dict in, a table out."""

from __future__ import annotations

from typing import Any

from benchmarks import report

# figure, key, digits, bound
Mark = tuple[str, str, int, dict[str, float]]

FLOOD: tuple[Mark, ...] = (
    ("flood, jobs/s", "flood_jobs_per_s", 0, {}),
    ("  bare loop, redis-py", "bare_jobs_per_s", 0, {}),
    ("  ratio", "flood_ratio", 2, {"least": 0.80}),
    ("  bare loop, raw socket", "raw_bare_jobs_per_s", 0, {}),
    ("  ratio", "flood_ratio_to_raw", 2, {}),
    ("  mosec, 64 HTTP clients (pyreqwest)", "mosec_jobs_per_s", 0, {}),
    ("  times as fast", "vs_mosec", 1, {"least": 5}),
    ("  mosec, 256 clients of hand-written HTTP", "mosec_raw_jobs_per_s", 0, {}),
    ("  times as fast", "vs_mosec_raw", 1, {}),
    ("  celery-batches", "celery_batches_jobs_per_s", 0, {}),
    ("  times as fast", "vs_celery_batches", 1, {"least": 50}),
    ("  RQ SimpleWorker", "rq_jobs_per_s", 0, {}),
    ("  times as fast", "vs_rq", 1, {"least": 100}),
)
MANY: tuple[Mark, ...] = (
    ("64 in flight, one asyncio client, jobs/s", "in_flight_64_jobs_per_s", 0, {}),
    ("  p50 ms", "in_flight_64_p50_ms", 2, {}),
    ("  p99 ms", "in_flight_64_p99_ms", 2, {}),
    ("  mosec, 64 HTTP clients (not a queue)", "mosec_in_flight_64_jobs_per_s", 0, {}),
    ("  times as fast", "vs_mosec_64_in_flight", 2, {"least": 2}),
    ("  mosec, 64 clients of hand-written HTTP", "mosec_raw_in_flight_64_jobs_per_s", 0, {}),
    ("  times as fast", "vs_mosec_raw_64_in_flight", 2, {}),
    ("  celery-batches", "celery_batches_in_flight_64_jobs_per_s", 0, {}),
    ("  RQ SimpleWorker", "rq_in_flight_64_jobs_per_s", 0, {}),
)
ONE: tuple[Mark, ...] = (
    ("one in flight, p50 ms", "one_in_flight_p50_ms", 3, {}),
    ("  bare loop, redis-py", "bare_one_in_flight_p50_ms", 3, {}),
    ("  ratio", "one_in_flight_p50_ratio", 2, {"most": 1.8}),
    ("  bare loop, raw socket", "raw_bare_one_in_flight_p50_ms", 3, {}),
    ("  ratio", "one_in_flight_p50_ratio_to_raw", 2, {}),
    ("  mosec", "mosec_one_in_flight_p50_ms", 2, {}),
    ("  mosec, hand-written HTTP", "mosec_raw_one_in_flight_p50_ms", 2, {}),
    ("  celery-batches", "celery_batches_one_in_flight_p50_ms", 2, {}),
    ("  RQ SimpleWorker", "rq_one_in_flight_p50_ms", 2, {}),
    ("  ratio to the fastest peer", "one_in_flight_p50_to_fastest_peer", 2, {"most": 1}),
    ("  p99 ms", "one_in_flight_p99_ms", 3, {}),
    ("  bare loop p99 ms", "bare_one_in_flight_p99_ms", 3, {}),
    ("  ratio", "one_in_flight_p99_ratio", 2, {"most": 3}),
)
COST: tuple[Mark, ...] = (
    ("CPU us a job, flood", "cpu_us_per_job", 1, {}),
    ("  producer", "cpu_us_per_job_producer", 1, {}),
    ("  slot", "cpu_us_per_job_slot", 1, {}),
    ("  engine", "cpu_us_per_job_engine", 1, {}),
    ("  redis", "cpu_us_per_job_redis", 1, {}),
    ("  bare loop, redis-py", "bare_cpu_us_per_job", 1, {}),
    ("Redis commands a job", "redis_commands_per_job", 1, {}),
    ("Redis bytes in and out a job", "redis_bytes_per_job", 0, {}),
    ("  bare loop", "bare_redis_bytes_per_job", 0, {}),
    ("mean batch, flood", "flood_mean_batch", 1, {}),
    ("  padding, % of forwarded rows", "flood_padding_percent", 1, {}),
    ("mean batch, 64 in flight", "in_flight_64_mean_batch", 1, {}),
    ("  padding, % of forwarded rows", "in_flight_64_padding_percent", 1, {}),
    ("time of a job, one in flight, ms: queue", "split_one_queue_ms", 3, {}),
    ("  batching, copy, hand-over", "split_one_slot_ms", 3, {}),
    ("  forward", "split_one_forward_ms", 3, {}),
    ("  settle and the client's trips", "split_one_trip_ms", 3, {}),
    ("time of a job, 64 in flight, ms: queue", "split_64_queue_ms", 3, {}),
    ("  batching, copy, hand-over", "split_64_slot_ms", 3, {}),
    ("  forward", "split_64_forward_ms", 3, {}),
    ("  settle and the client's trips", "split_64_trip_ms", 3, {}),
    ("idle slot, % of a core", "idle_core_percent_per_slot", 2, {"most": 1}),
    ("bytes in Redis above payload, queued", "queued_overhead_bytes", 0, {"most": 250}),
    ("  above result, finished", "finished_overhead_bytes", 0, {"most": 300}),
)
OPEN: tuple[Mark, ...] = (
    ("open loop, 5 ms model: highest jobs/s", "open_loop_highest_jobs_per_s", 0, {}),
    ("  at 10 %: p50 ms", "open_loop_10_p50_ms", 2, {}),
    ("  p99 ms", "open_loop_10_p99_ms", 2, {}),
    ("  p99.9 ms", "open_loop_10_p999_ms", 2, {}),
    ("  at 50 %: p50 ms", "open_loop_50_p50_ms", 2, {}),
    ("  p99 ms", "open_loop_50_p99_ms", 2, {}),
    ("  p99.9 ms", "open_loop_50_p999_ms", 2, {}),
    ("  at 80 %: p50 ms", "open_loop_80_p50_ms", 2, {}),
    ("  p99 ms", "open_loop_80_p99_ms", 2, {}),
    ("  p99.9 ms", "open_loop_80_p999_ms", 2, {}),
    ("  p99 over p50", "open_loop_80_p99_over_p50", 2, {"most": 3}),
    ("  the client's own lateness at 80 %, p99 ms", "open_loop_80_client_late_p99_ms", 2, {}),
)
LANES: tuple[Mark, ...] = (
    ("high lane alone, p99 ms", "high_lane_p99_ms_alone", 1, {}),
    ("  under a low-lane flood", "high_lane_p99_ms_under_low_flood", 1, {}),
    ("  a low batch, ms", "low_batch_ms", 1, {}),
    ("  added, in low batches", "high_lane_p99_added_low_batches", 2, {"most": 1}),
)
MODELS: tuple[Mark, ...] = (
    ("magika, files/s", "magika_files_per_s", 0, {}),
    ("  bare session by 16", "bare_magika_16_files_per_s", 0, {}),
    ("  bare session by 32", "bare_magika_32_files_per_s", 0, {}),
    ("  ratio to the faster", "magika_ratio", 3, {"least": 0.97}),
    ("  mean batch", "magika_mean_batch", 1, {}),
    ("minilm, sentences/s", "minilm_rows_per_s", 0, {}),
    ("  bare module by 16", "bare_minilm_16_rows_per_s", 0, {}),
    ("  bare module by 32", "bare_minilm_32_rows_per_s", 0, {}),
    ("  ratio to the faster", "minilm_ratio", 3, {"least": 0.97}),
    ("  mean batch", "minilm_mean_batch", 1, {}),
)
RETIRE: tuple[Mark, ...] = (
    ("retirements", "retirements", 0, {"least": 36}),
    ("  least ready slots", "ready_least", 0, {"least": 1}),
    ("  lost", "retire_lost", 0, {"most": 0}),
    ("  answered twice", "retire_twice", 0, {"most": 0}),
    ("  failed", "retire_failed", 0, {"most": 0}),
    ("  programs FATAL", "retire_fatal", 0, {"most": 0}),
)
ROWS = (*FLOOD, *MANY, *ONE, *COST, *OPEN, *LANES, *MODELS, *RETIRE)
MUST_BE_ZERO = ("retire_lost", "retire_twice", "retire_failed", "retire_fatal")


def rows(figures: dict[str, Any]) -> list[report.Row]:
    """Head and figures that were measured: name, median, spread over the rounds, mark."""
    found: list[report.Row] = [("figure", "median", "least .. most", "wanted")]
    for text, key, digits, bound in ROWS:
        if key not in figures:
            continue
        ends = [report.figure(figures[end], digits) for end in (f"{key}_min", f"{key}_max") if end in figures]
        wanted = report.verdict(figures[key], **bound) if bound else ""
        found.append((text, report.figure(figures[key], digits), " .. ".join(ends), wanted))
    return found


def foot(figures: dict[str, Any]) -> str:
    """On what, when, and how many rounds."""
    kind = "a quick run" if figures.get("is_quick") else "a full run"
    return (
        f"{figures['date'][:10]}, {figures['machine']}, {figures['cores']} cores, load {figures['load_1m']:.1f}; "
        f"{figures['server']}; {kind}, {figures.get('rounds', 1)} rounds"
    )


def table(figures: dict[str, Any]) -> str:
    """What was measured, with the marks it should reach."""
    return f"{report.table(rows(figures), right=(1, 2))}\n\n{foot(figures)}"


def markdown(figures: dict[str, Any]) -> str:
    """The same for a page."""
    return f"{report.markdown(rows(figures), right=(1, 2))}\n\n{foot(figures)}"
