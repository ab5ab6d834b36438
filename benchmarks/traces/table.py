"""The recorded traces' tables as text: per trace and mechanism with and without it, then where each gains. Prints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from benchmarks.traces.mechanisms import NOW
from benchmarks.traces.recorded import Trace
from benchmarks.traces.replay import MECHANISMS, Figures, middle, replay, seen, verdicts

TITLES = {
    "mean_ms": "mean ms",
    "p99_ms": "p99 ms",
    "per_s": "jobs/s",
    "high_p99_ms": "high p99 ms",
    "in_time": "in time",
}
DIGITS = {"mean_ms": ".1f", "p99_ms": ".1f", "per_s": ".0f", "high_p99_ms": ".1f", "in_time": ".0%"}


def show(traces: Sequence[Trace]) -> None:
    """Half a minute for all."""
    gains: defaultdict[str, list[str]] = defaultdict(list)
    losses: defaultdict[str, list[str]] = defaultdict(list)
    print(
        "\nRECORDED traces of a real slot under real clients, replayed with / without the mechanism: + better, - worse with it"
    )
    for trace in traces:
        print(f"\n{trace.name}: {trace.what}; {trace.jobs} jobs, {trace.machine}, {trace.cores} cores, {trace.date}")
        print(f"{'':24s}" + "".join(f"{title:>18s}" for title in TITLES.values()))
        _line("as it was recorded", seen(trace))
        now = replay(trace, NOW)
        _line("replayed", middle(now))
        same = []
        for name, (how, other) in MECHANISMS.items():
            runs = now if how == NOW else replay(trace, how)
            without = now if other == NOW else replay(trace, other)
            moved = verdicts(runs, without)
            if not moved:
                same.append(name)
                continue
            _line(name, middle(runs), middle(without), moved)
            for found, sign in ((gains, 1), (losses, -1)):
                parts = [f"{TITLES[figure]} {abs(share):.0%}" for figure, share in moved.items() if sign * share > 0]
                found[name] += [f"{trace.name} ({', '.join(parts)})"] if parts else []
        print(f"no difference: {', '.join(same)}")
    print("\nIn short: by how much, `in time` in points of all jobs")
    for name in MECHANISMS:
        print(
            f"{name}\n    better: {'; '.join(gains[name]) or 'nowhere'}\n    worse:  {'; '.join(losses[name]) or 'nowhere'}"
        )


def _line(name: str, one: Figures, other: Figures | None = None, moved: Mapping[str, float] | None = None) -> None:
    cells = []
    for figure in TITLES:
        values = [format(getattr(each, figure), DIGITS[figure]) for each in (one, other) if each is not None]
        share = (moved or {}).get(figure, 0.0)
        is_used = any(getattr(each, figure) for each in (one, other) if each is not None)
        cells.append(("+ " if share > 0 else "- " if share < 0 else "") + " / ".join(values) if is_used else "")
    print(f"{name:24s}" + "".join(f"{cell:>18s}" for cell in cells), flush=True)
