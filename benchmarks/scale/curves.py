"""The curves of scale as PNG. Needs matplotlib (`pip install -e '.[bench]'`); `draw` says so where it is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scale.tables import value_of

WITHOUT = "scale: matplotlib is not installed, so no curves were drawn; pip install -e '.[bench]'"
# part -> x, its label, and the panels: (label, whether logarithmic, ((name, key), ...))
Panel = tuple[str, bool, tuple[tuple[str, str], ...]]
PANELS: dict[str, tuple[str, str, tuple[Panel, ...]]] = {
    "slots": ("slots", "slots", (
        ("jobs/s", False, (("jobs/s", "jobs_per_s"),)),
        ("CPU µs per job", False, tuple((role, f"cpu_us_per_job.{role}") for role in ("slot", "engine", "redis", "producer"))),
    )),
    "backlog": ("backlog", "jobs waiting", (
        ("jobs/s", False, (("held", "held_jobs_per_s"), ("draining", "drain_jobs_per_s"))),
        ("CPU µs per job", False, tuple((role, f"held_cpu_us_per_job.{role}") for role in ("slot", "engine", "redis", "producer"))),
    )),
    "payloads": ("bytes", "bytes of a payload", (
        ("MB/s", True, (("pool", "mb_per_s"), ("bare Redis streams", "ceiling_mb_per_s"))),
        ("CPU ms per MB", True, tuple((role, f"cpu_ms_per_mb.{role}") for role in ("slot", "engine", "redis", "producer"))),
    )),
    "producers": ("producers", "producers", (
        ("jobs/s", False, (("jobs/s", "jobs_per_s"),)),
        ("submit of 64 jobs, ms", True, (("p50", "submit_p50_ms"), ("p99", "submit_p99_ms"))),
    )),
}  # fmt: skip


def draw(figures: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes scale-PART.png for each part there is; the files. Raises ModuleNotFoundError without matplotlib."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    drawn = []
    for part, (x, label, panels) in PANELS.items():
        if part not in figures:
            continue
        figure, axes = pyplot.subplots(1, len(panels), figsize=(11, 4), layout="constrained")
        for axis, (y_label, is_log, lines) in zip(axes, panels, strict=True):
            for group, rows in groups(part, figures[part]["rows"]).items():
                for name, key in lines:
                    points = line(rows, x, key)
                    axis.plot(*zip(*points, strict=True), marker="o", label=f"{name}{group}") if points else None
            axis.set_xscale("log", base=2 if part in ("slots", "payloads") else 10)
            axis.set_yscale("log" if is_log else "linear")
            if not is_log:
                axis.set_ylim(bottom=0)
            axis.set_xlabel(label)
            axis.set_ylabel(y_label)
            axis.grid(alpha=0.3)
            axis.legend(fontsize="small")
        figure.suptitle(
            f"{figures[part]['about']['machine']}, {figures[part]['about']['cores']} cores", fontsize="small"
        )
        path = folder / f"scale-{part}.png"
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
        drawn.append(path)
    return drawn


def groups(part: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows that make one line: of the slots, those with the same size of batch."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(f", {row['max_rows']} rows" if part == "slots" else "", []).append(row)
    return found


def line(rows: Sequence[Mapping[str, Any]], x: str, key: str) -> list[tuple[float, float]]:
    """(x, value) in the order of x, the mean where an x was taken twice; what was not measured is left out."""
    values: dict[float, list[float]] = {}
    for row in rows:
        if (value := value_of(row, key)) is not None:
            values.setdefault(row[x], []).append(value)
    return [(at, sum(found) / len(found)) for at, found in sorted(values.items())]
