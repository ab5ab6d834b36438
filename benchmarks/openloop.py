"""The open loop: Poisson arrivals at 10, 50 and 80 % of what the slot sustains, on a model that sleeps 5 ms a forward.

The model uses no core, so that client and pool do not fight for two. It takes at most 16 rows: its ceiling, some 3 000 jobs/s, is
then the model's and not the machine's.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

from benchmarks import arrivals, flood, report, sleeper, spread
from benchmarks.sizes import Size
from benchmarks.spread import Figures
from benchmarks.stand import Stand, slot
from broker.embedded import temporary_server
from producer import Producer

SLEEP_MS, MAX_ROWS = 5.0, 16
LOADS = (10, 50, 80)
SEED = 4
FLOOD_S = 1.0


def measure(folder: Path, size: Size, raw: Figures) -> Figures:
    """Finds the highest rate, then every load in turn, round by round with other seeds."""
    artifact = sleeper.build(folder / "sleeper", sleep_ms=SLEEP_MS, max_rows=MAX_ROWS, name="sleeper")
    with temporary_server(folder / "open") as url, slot(folder / "open", url, "sleeper", artifact) as stand:
        most = highest(stand, rounds=min(3, size.open_rounds))
        about = report.about(stand.link)
        x = flood.rows(1024, sleeper.FEATURES)
        found: dict[int, list[arrivals.Open]] = {load: [] for load in LOADS}
        for number in range(size.open_rounds):
            for load, opens in found.items():
                rate = most * load / 100
                due = arrivals.schedule(rate, size.open_s, SEED + number)
                opens.append(arrivals.run(url, "sleeper", x, due.tolist(), rate))
    raw["open_loop"] = {str(load): opens for load, opens in found.items()}
    figures: Figures = {**about, "open_loop_highest_jobs_per_s": round(most), "open_loop_sleep_ms": SLEEP_MS}
    for load, opens in found.items():
        name = f"open_loop_{load}"
        figures |= spread.of(f"{name}_p50_ms", [one.latency.p50_ms for one in opens], 3)
        figures |= spread.of(f"{name}_p99_ms", [one.latency.p99_ms for one in opens], 3)
        figures |= spread.of(f"{name}_p999_ms", [one.latency.p999_ms for one in opens], 3)
        figures |= spread.of(f"{name}_client_late_p99_ms", [one.late.p99_ms for one in opens], 3)
        figures |= spread.of(f"{name}_p99_over_p50", [one.latency.p99_ms / one.latency.p50_ms for one in opens], 3)
    return figures


def highest(stand: Stand, *, rounds: int) -> float:
    """Jobs a second of floods that take about a second, after one that warms up."""
    x = flood.rows(int(FLOOD_S * MAX_ROWS / SLEEP_MS * 1e3), sleeper.FEATURES)
    with Producer(stand.url) as producer:
        flood.through_penstock(stand, producer, x[: 8 * MAX_ROWS])
        return median(flood.through_penstock(stand, producer, x).jobs_per_s for _ in range(rounds))
