"""Recorded traces through the simulated slot, each mechanism on and off: where it gains, where it costs. Prints nothing.

Open senders send when they did. Closed ones send as long after their answer as they did then, so that a slot that answers sooner
is asked sooner; a replay at the recorded moments would hide all that waiting for senders does. The forward takes the median the
recorded slot had learned for its size, spread a little; Python's cost and a neighbour's noise are not in it, so a replay is
quicker than what was recorded, and only compared with other replays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from benchmarks.traces.arrivals import HIGH, Arrival, Waits
from benchmarks.traces.mechanisms import BEFORE, NOW, Mechanisms
from benchmarks.traces.recorded import Trace
from benchmarks.traces.result import Result, p99
from benchmarks.traces.simulate import Slot

SEEDS = (1, 2, 3)  # of the forwards' spread
MATTERS, LEAST_MS = 0.02, 0.1  # a smaller share of a figure is noise, and so is less of a time

# With the mechanism, without it. The last one is not in the slot.
MECHANISMS: dict[str, tuple[Mechanisms, Mechanisms]] = {
    "all of them": (NOW, BEFORE),
    "waiting for senders": (NOW, replace(NOW, expects=False)),
    "last look": (NOW, replace(NOW, looks=False)),
    "reading ahead late": (NOW, replace(NOW, reads_late=False)),
    "only rows that pay": (NOW, replace(NOW, fills=False)),
    "... of these, padding": (NOW, replace(NOW, downs=False)),
    "company at no cost": (NOW, replace(NOW, company=False)),
    "low_batch_ms": (NOW, replace(NOW, low_batch_ms=0.0)),
    "giving up": (NOW, replace(NOW, expires=False)),
    "(dropped) shrinking": (replace(NOW, shrinks=True), NOW),
}


class Figures(msgspec.Struct, frozen=True):
    """Of one run. Times of all lanes from Redis to the sender, of jobs that were run; `in_time` is a share of all jobs. The high
    lane's p99 is 0 where it was not used."""

    mean_ms: float
    p99_ms: float
    per_s: float
    high_p99_ms: float
    in_time: float


MORE_IS_BETTER = {"per_s", "in_time"}


def seen(trace: Trace) -> Figures:
    """What was measured when it was recorded, with all mechanisms on."""
    took = [ms for one in trace.senders for ms in one.took_ms if ms is not None]
    high = [ms for one in trace.senders if one.lane == HIGH for ms in one.took_ms if ms is not None]
    in_time = sum(
        ms is not None and (not one.deadline_ms or ms <= one.deadline_ms) for one in trace.senders for ms in one.took_ms
    )
    return Figures(sum(took) / len(took), p99(took), len(took) / _seconds(trace), p99(high), in_time / trace.jobs)


def _seconds(trace: Trace) -> float:
    """From the begin to the last answer."""
    ends = []
    for one in trace.senders:
        if one.is_closed:
            ends.append(sum(one.gaps_ms) + sum(ms or 0.0 for ms in one.took_ms))
        else:
            ends.append(sum(one.gaps_ms) + (one.took_ms[-1] or 0.0))
    return max(ends) / 1e3


def arrivals(trace: Trace) -> tuple[list[Arrival], list[Waits]]:
    """Its open senders' jobs, and its closed senders."""
    found, waits = [], []
    for one in trace.senders:
        if one.is_closed:
            waits.append(Waits(one.lane, one.rows, one.deadline_ms, one.gaps_ms))
            continue
        at_ms = 0.0
        for gap_ms in one.gaps_ms:
            at_ms += gap_ms
            found.append(Arrival(at_ms, one.lane, one.deadline_ms, one.rows))
    return sorted(found), waits


def replay(trace: Trace, how: Mechanisms, seeds: Sequence[int] = SEEDS) -> list[Figures]:
    """A run for each seed; the same each time."""
    opens, waits = arrivals(trace)
    return [_figures(Slot(trace.table, how, seed=seed).run(opens, waits=waits)) for seed in seeds]


def _figures(result: Result) -> Figures:
    high_ms = result.p99(HIGH)
    return Figures(result.mean(None), result.p99(None), result.per_s(None), high_ms, result.kept)


def middle(runs: Sequence[Figures]) -> Figures:
    """Each figure's median."""
    return Figures(*(sorted(getattr(run, name) for run in runs)[len(runs) // 2] for name in Figures.__struct_fields__))


def verdicts(runs: Sequence[Figures], without: Sequence[Figures]) -> Mapping[str, float]:
    """Figures that the mechanism moves, by which share, more than 0: for the better; `in_time`, a share itself, by so much of all jobs. Seeds must
    agree that it matters."""
    found = {}
    for name in Figures.__struct_fields__:
        pairs = [(getattr(one, name), getattr(other, name)) for one, other in zip(runs, without, strict=True)]
        if name == "in_time":
            shares = sorted(one - other for one, other in pairs)
        else:
            shares = sorted((one - other) / other if other else 0.0 for one, other in pairs)
        least = LEAST_MS if name.endswith("_ms") else 0.0
        if min(abs(one - other) for one, other in pairs) <= least:
            continue
        if min(abs(share) for share in shares) > MATTERS and (shares[0] > 0) == (shares[-1] > 0):
            share = shares[len(shares) // 2]
            found[name] = share if name in MORE_IS_BETTER else -share
    return found
