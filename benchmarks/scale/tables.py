"""The figures of scale as Markdown, a table for each part, and the marks they should reach. Pure: figures in, text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import report
from benchmarks.scale import backlog

IDLE_MOST = 1.0  # percent of a core
BACKLOG_LEAST = 0.9
TITLES = {
    "slots": f"Slots: a model that sleeps {5:g} ms",
    "backlog": "Backlog: jobs that wait",
    "payloads": "Payload size: one slot, one producer, beside bare Redis streams",
    "producers": "Producers: the same jobs from 1 to 200",
    "idle": "Idle pool",
}
# part -> (head, key, digits); a key `a.b` looks into a group of figures by role
COLUMNS: dict[str, tuple[tuple[str, str, int], ...]] = {
    "slots": (
        ("slots", "slots", 0), ("most rows", "max_rows", 0), ("jobs/s", "jobs_per_s", 0), ("of what the model allows", "of_possible", 2),
        ("mean batch", "mean_batch", 1), ("ms between forwards", "between_forwards_ms", 2), ("slot µs/job", "cpu_us_per_job.slot", 1), ("engine", "cpu_us_per_job.engine", 1),
        ("redis", "cpu_us_per_job.redis", 1), ("producer", "cpu_us_per_job.producer", 1), ("limited by", "limited_by", 0),
    ),
    "backlog": (
        ("backlog", "backlog", 0), ("jobs/s held there", "held_jobs_per_s", 0), ("lowest", "held_jobs_per_s_lowest", 0),
        ("highest", "held_jobs_per_s_highest", 0), ("first 1 000, jobs/s", "first_1000_jobs_per_s", 0), ("draining, jobs/s", "drain_jobs_per_s", 0),
        ("filling, jobs/s", "fill_jobs_per_s", 0), ("bytes a job above payload", "bytes_per_queued_job_above_payload", 0),
        ("slot µs/job", "held_cpu_us_per_job.slot", 1), ("redis µs/job", "held_cpu_us_per_job.redis", 1), ("limited by", "limited_by", 0),
    ),
    "payloads": (
        ("bytes", "bytes", 0), ("jobs/s", "jobs_per_s", 0), ("MB/s", "mb_per_s", 1), ("bare MB/s", "ceiling_mb_per_s", 1), ("ratio", "ratio", 2),
        ("producer ms/MB", "cpu_ms_per_mb.producer", 2), ("slot", "cpu_ms_per_mb.slot", 2), ("engine", "cpu_ms_per_mb.engine", 2),
        ("redis", "cpu_ms_per_mb.redis", 2), ("bare redis", "ceiling_cpu_ms_per_mb.redis", 2), ("limited by", "limited_by", 0),
    ),
    "producers": (
        ("producers", "producers", 0), ("processes", "processes", 0), ("jobs/s", "jobs_per_s", 0), ("submit p50 ms", "submit_p50_ms", 2),
        ("submit p99 ms", "submit_p99_ms", 2), ("connections", "connections", 0), ("commands/job", "redis_commands_per_job", 2),
        ("producers µs/job", "cpu_us_per_job.producer", 1), ("slot", "cpu_us_per_job.slot", 1), ("redis", "cpu_us_per_job.redis", 1), ("limited by", "limited_by", 0),
    ),
    "idle": (
        ("slots", "slots", 0), ("% of a core per slot", "percent_of_a_core_per_slot", 2), ("with its share of Redis", "percent_with_redis_per_slot", 2),
        ("slots' cores", "cores_used.slot", 4), ("engines'", "cores_used.engine", 4), ("redis'", "cores_used.redis", 4),
    ),
}  # fmt: skip


def page(figures: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = [
        f"## {title}\n\n{_about(figures[part])}\n\n{_table(part, figures[part]['rows'])}"
        for part, title in TITLES.items()
        if part in figures
    ]
    return (
        "\n\n".join(["# Scale of the cost", "Written by `make scale`.", *parts, *filter(None, [marks(figures)])]) + "\n"
    )


def marks(figures: Mapping[str, Any]) -> str:
    """The two figures that have a mark, where they were measured."""
    rows: list[Sequence[str]] = []
    if "idle" in figures:
        worst = max(row["percent_of_a_core_per_slot"] for row in figures["idle"]["rows"])
        rows.append(("idle, % of a core per slot", report.figure(worst), report.verdict(worst, most=IDLE_MOST)))
    if "backlog" in figures and (ratio := backlog.ratio(figures["backlog"]["rows"])) is not None:
        deepest = max(row["backlog"] for row in figures["backlog"]["rows"])
        text = f"jobs/s with {report.figure(deepest, 0)} waiting, to those with 1 000"
        rows.append((text, report.figure(ratio), report.verdict(ratio, least=BACKLOG_LEAST)))
    return "```\n" + report.table([("figure", "value", "wanted"), *rows]) + "\n```" if rows else ""


def value_of(row: Mapping[str, Any], key: str) -> Any:
    """A figure of a row; `a.b` is b in the group a."""
    found: Any = row
    for name in key.split("."):
        found = found.get(name) if found is not None else None
    return found


def _about(part: Mapping[str, Any]) -> str:
    about = part["about"]
    size = ", quick run" if part["is_quick"] else ""
    return f"{about['date']}, {about['machine']}, {about['cores']} cores, load {about['load_1m']:.1f}; {about['server']}{size}"


def _table(part: str, rows: Sequence[Mapping[str, Any]]) -> str:
    columns = COLUMNS[part]
    lines = ["| " + " | ".join(head for head, _, _ in columns) + " |", "|" + "---:|" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(_cell(value_of(row, key), digits) for _, key, digits in columns) + " |")
    return "\n".join(lines)


def _cell(value: Any, digits: int) -> str:
    return value if isinstance(value, str) else report.figure(value, digits)
