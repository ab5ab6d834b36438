"""The figures as one picture: speeds, latencies, the cost of a job, the open loop. Needs matplotlib (extra `bench`)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.spread import Figures

# key prefix -> what stands below the bar
SIDES = {
    "raw_bare_": "bare loop\nraw",
    "bare_": "bare loop\nredis-py",
    "": "Penstock",
    "mosec_raw_": "mosec\nby hand",
    "mosec_": "mosec",
    "celery_batches_": "celery-\nbatches",
    "rq_": "RQ",
}
OURS_COLOUR, OTHERS_COLOUR = "#1f6fb2", "#b8bec6"
PROCESSES = {"producer": "#1f6fb2", "slot": "#56a3d9", "engine": "#f0a33f", "worker": "#f6cf9a", "redis": "#c2453d"}
LOADS = (10, 50, 80)


def draw(figures: Figures, file: Path) -> bool:
    """Writes the picture; whether it could: a line says so where matplotlib is missing or nothing is there to draw."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        print("bench: no plot: matplotlib is missing; pip install -e '.[bench]'", file=sys.stderr)
        return False
    if "flood_jobs_per_s" not in figures:
        return False
    picture = Figure(figsize=(13, 9), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots(2, 2)
    bars(axes[0][0], figures, "jobs_per_s", "Flood, jobs/s", ours="flood_jobs_per_s")
    bars(axes[0][1], figures, "one_in_flight_p50_ms", "One in flight, p50 ms")
    costs(axes[1][0], figures)
    loads(axes[1][1], figures)
    picture.suptitle(f"{figures['machine']}, {figures['cores']} cores, {figures['date'][:10]}", fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(file, dpi=110)
    return True


def bars(axis: Any, figures: Figures, key: str, title: str, *, ours: str = "") -> None:
    """One bar a side, with its spread; the scale is logarithmic, the sides lie decades apart."""
    names = {prefix: (ours or key) if prefix == "" else f"{prefix}{key}" for prefix in SIDES}
    there = {prefix: name for prefix, name in names.items() if name in figures}
    values = [figures[name] for name in there.values()]
    below = [figures[name] - figures.get(f"{name}_min", figures[name]) for name in there.values()]
    above = [figures.get(f"{name}_max", figures[name]) - figures[name] for name in there.values()]
    colours = [OTHERS_COLOUR if prefix else OURS_COLOUR for prefix in there]
    drawn = axis.bar([SIDES[prefix] for prefix in there], values, yerr=[below, above], color=colours, capsize=3)
    axis.bar_label(drawn, labels=[f"{value:,.0f}" if value >= 100 else f"{value:.2f}" for value in values], fontsize=8)
    axis.set_yscale("log")
    axis.set_title(title)
    axis.tick_params(axis="x", labelsize=8)


def costs(axis: Any, figures: Figures) -> None:
    """CPU of a flood's job, stacked by process."""
    sides = {prefix: SIDES[prefix] for prefix in ("raw_bare_", "bare_", "") if f"{prefix}cpu_us_per_job" in figures}
    base = [0.0] * len(sides)
    for process, colour in PROCESSES.items():
        heights = [figures.get(f"{prefix}cpu_us_per_job_{process}", 0.0) for prefix in sides]
        if any(heights):
            axis.bar(list(sides.values()), heights, bottom=base, color=colour, label=process)
        base = [low + height for low, height in zip(base, heights, strict=True)]
    axis.set_title("CPU of a job in a flood, us")
    axis.legend(fontsize=8)


def loads(axis: Any, figures: Figures) -> None:
    """Latency over load, from the moment a job was due."""
    axis.set_title("Open loop, a model that sleeps 5 ms: latency, ms")
    if f"open_loop_{LOADS[0]}_p50_ms" not in figures:
        return
    for centile, text in (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9")):
        axis.plot(LOADS, [figures[f"open_loop_{load}_{centile}_ms"] for load in LOADS], marker="o", label=text)
    axis.set_xlabel("load, % of the highest sustained rate")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8)
