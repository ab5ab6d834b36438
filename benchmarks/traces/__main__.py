"""Prints what each mechanism of batching gains, on seeded traces and on recorded ones: `python -m benchmarks.traces`, a minute.

The same each time. Seeded traces cover models and loads that could not be recorded here; `--only recorded` takes the others, which
`python -m benchmarks.traces.record` renews.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial

from msgspec.structs import replace

from benchmarks.traces import recorded
from benchmarks.traces.arrivals import HIGH, LOW, Arrival, backlog, bursts, poisson
from benchmarks.traces.mechanisms import BEFORE, NOW, Mechanisms, by_mean_gap, fixed
from benchmarks.traces.result import Result
from benchmarks.traces.simulate import Slot
from benchmarks.traces.table import show
from benchmarks.traces.tables import TABLES, most_per_s

JOBS = 5000
Say = Callable[[Result], str]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.traces", description=__doc__)
    parser.add_argument("--only", choices=("seeded", "recorded"))
    only = parser.parse_args().only
    if only != "recorded":
        print("SEEDED traces, on tables measured, published and made up (benchmarks/traces/tables.py)")
        _arrivals()
        _senders()
        _deadlines()
        _lanes()
    if only != "seeded":
        show(recorded.load())


def _arrivals() -> None:
    hows = {
        "before": BEFORE, "now": NOW, "read early": replace(NOW, reads_late=False), "no look": replace(NOW, looks=False),
        "no company expected": replace(NOW, expects=False), "always all rows": replace(NOW, fills=False), "padded up": replace(NOW, downs=False),
        "+ mean gap rule": replace(NOW, expects=False, wait=by_mean_gap), "+ timer 2 ms": replace(NOW, expects=False, wait=fixed(2.0)),
    }  # fmt: skip
    _head("Independent arrivals (Poisson) and bursts of 16 within 2 ms: mean / p99 ms from submit to outcome", hows)
    for table in TABLES:
        for load in (0.1, 0.5, 0.8, 0.95):
            per_s = load * most_per_s(table)
            _line(table, f"{load:.0%}", hows, poisson(per_s, JOBS / per_s, seed=3), _times)
        per_s = 0.5 * most_per_s(table)
        _line(table, "bursts 50%", hows, bursts(per_s, JOBS / per_s, size=16, within_ms=2.0, seed=3), _times)


def _senders() -> None:
    hows = {
        "before": BEFORE, "now": NOW, "no company expected": replace(NOW, expects=False),
        "+ mean gap rule": replace(NOW, expects=False, wait=by_mean_gap), "+ timer 2 ms": replace(NOW, expects=False, wait=fixed(2.0)),
    }  # fmt: skip
    _head("Senders that each wait for their result: jobs/s, p99 ms", hows)
    for table in TABLES:
        for clients in (1, 2, 8, 64):
            print(f"{table:12s} {clients:<11d}", end="")
            for how in hows.values():
                result = Slot(TABLES[table], how).run(clients=clients, jobs=min(2000, 400 * clients))
                print(f"{f'{result.per_s():.0f}/s, {result.p99():.1f}':>22s}", end="")
            print()


def _deadlines() -> None:
    hows = {
        "before": BEFORE, "now": NOW, "none given up": replace(NOW, expires=False),
        "+ shrinks": replace(NOW, shrinks=True), "shrinks only": replace(NOW, expires=False, shrinks=True),
    }  # fmt: skip
    _head("Deadlines of 2.2 times the largest forward: share of jobs that end in time", hows)
    for table in ("sleeper", "resnet50", "transformer"):
        for load in (0.5, 0.9, 1.0, 1.2, 1.5):
            per_s, most_ms = load * most_per_s(table), max(TABLES[table].values())
            trace = poisson(per_s, JOBS / per_s, seed=3, deadline_ms=2.2 * most_ms)
            _line(table, f"{load:.0%}", hows, trace, lambda result: f"{result.kept:.1%}")
    _head("The same of one job in ten, 2.2 times a forward of eight; the others have none", hows)
    for table in ("resnet50", "transformer"):
        for load in (0.3, 0.5, 0.8):
            per_s = load * most_per_s(table)
            tight = poisson(0.1 * per_s, JOBS / per_s, seed=4, deadline_ms=2.2 * TABLES[table][8])
            trace = poisson(0.9 * per_s, JOBS / per_s, seed=3) + tight
            _line(table, f"{load:.0%}", hows, trace, partial(_kept_of, len(tight)))


def _kept_of(tight: int, result: Result) -> str:
    return f"{1 - result.late / tight:.0%}, {result.p99():.0f}"


def _lanes() -> None:
    hows = {
        "before": BEFORE, "now": NOW, "no look": replace(NOW, looks=False), "read early": replace(NOW, reads_late=False),
        "company at any cost": replace(NOW, company=False), "low_batch_ms off": replace(NOW, low_batch_ms=0.0),
    }  # fmt: skip
    _head("50 high jobs/s over a flood of low ones: p99 ms of the high ones, low ones per s ('alone': no flood)", hows)
    for table in TABLES:
        high = poisson(50, 20, seed=5, lane=HIGH)
        alone = Slot(TABLES[table], NOW).run(high).p99(HIGH)
        flood = backlog(int(20 * 1.1 * min(20_000, most_per_s(table))), lane=LOW)
        _line(
            table,
            f"alone {alone:.1f}",
            hows,
            high + flood,
            lambda result: f"{result.p99(HIGH):.1f}, {result.per_s(LOW):.0f}/s",
        )


def _times(result: Result) -> str:
    return f"{result.mean():.1f} / {result.p99():.1f}"


def _head(title: str, hows: Mapping[str, Mechanisms]) -> None:
    print(f"\n{title}\n{'':24s}" + "".join(f"{name:>22s}" for name in hows))


def _line(table: str, load: str, hows: Mapping[str, Mechanisms], trace: list[Arrival], say: Say) -> None:
    print(
        f"{table:12s} {load:11s}"
        + "".join(f"{say(Slot(TABLES[table], how).run(trace)):>22s}" for how in hows.values()),
        flush=True,
    )


if __name__ == "__main__":
    main()
