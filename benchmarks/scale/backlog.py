"""A backlog of a thousand to a million jobs: what a queued job takes, and whether depth slows the slot down.

Jobs are queued before the slot starts. Then two looks at the same queue. Held: a producer keeps it at its depth, and the
slot's jobs/s are taken over windows of equal time; this is what depths are compared by, since all else is the same. Drained: the
producer stops and the queue empties, in windows of equal jobs. Results are stored. The depth of 1 000 is taken first and last,
so that a machine that grew slower meanwhile shows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from benchmarks import flood, machine
from benchmarks.memory import used
from benchmarks.scale import limit
from benchmarks.scale.bank import Bank, bank, mine
from benchmarks.scale.cpu import Clock, Spent
from broker.embedded import temporary_server
from examples.mlp.build import build
from producer import Producer

FEATURES = 64
DEPTHS = (1_000, 10_000, 100_000, 1_000_000, 1_000)
QUICK_DEPTHS = (1_000, 20_000)
MEMORY_MB = 8_192
CHUNK = 256  # what the holding producer sends at once, and a round trip's worth
PORTION = 16_384  # jobs filled in with one call; their handles go with it
STEADY_AFTER_JOBS = 20_000  # the slot's first batches are its slowest
WINDOWS = 10
LEAST_WINDOW = 5_000  # jobs; fewer are over in a few looks
LOOK_S = 0.005
STUCK_S = 60.0

Sample = tuple[float, int]  # seconds, jobs done until then


class Window(msgspec.Struct, frozen=True):
    """Some jobs of a drain and what they took."""

    jobs: int
    spent: Spent

    @property
    def jobs_per_s(self) -> float:
        return self.jobs / self.spent.took_s


def measure(folder: Path, is_quick: bool) -> list[dict[str, Any]]:
    """A row for each depth, in the order they were taken."""
    artifact = folder / "mlp"
    build(artifact, features=FEATURES)
    depths = QUICK_DEPTHS if is_quick else DEPTHS
    seconds = (3, 0.4) if is_quick else (5, 2.0)
    return [one(folder / f"{number}", artifact, depth, *seconds) for number, depth in enumerate(depths)]


def one(folder: Path, artifact: Path, depth: int, windows: int, window_s: float) -> dict[str, Any]:
    """One depth on a server of its own, `windows` windows of `window_s` while it is held."""
    x = flood.rows(PORTION, FEATURES)
    with (
        temporary_server(folder / "server", max_memory_mb=MEMORY_MB) as url,
        bank(folder, url, artifact, 0) as slots,
    ):
        empty = used(slots.link)
        with Producer(url) as filler:
            started = time.perf_counter()
            for at in range(0, depth, PORTION):
                filler.submit_many(slots.model, x[: min(PORTION, depth - at)])
            fill_s = time.perf_counter() - started
        bytes_each = (used(slots.link) - empty) / depth
        with Producer(url) as feeder:
            held = Feed(slots, feeder, depth)
            slots.start(1, look=held.look)
            held.until_done(STEADY_AFTER_JOBS)
            clock = Clock(slots.roles() | mine())
            before = slots.done()
            speeds = [held.window(window_s) for _ in range(windows)]
            spent, jobs = clock.spent(), slots.done() - before
            first = held.first(1_000)
            submitted = held.submitted
        drained = drain(slots, submitted)
    return {
        "backlog": depth,
        "fill_jobs_per_s": round(depth / fill_s),
        "bytes_per_queued_job_above_payload": round(bytes_each - 4 * FEATURES, 1),
        "held_jobs_per_s": round(median(speeds)),
        "held_jobs_per_s_lowest": round(min(speeds)),
        "held_jobs_per_s_highest": round(max(speeds)),
        "held_cpu_us_per_job": spent.us_per(jobs),
        "held_cores_used": spent.shares(),
        "held_others_cores": spent.others(),
        "limited_by": limit.bound(shares=spent.shares(), counts={}, others=spent.others(), cores=machine.cores()),
        "first_1000_jobs_per_s": round(first) if first else None,
        "drain_jobs_per_s": round(sum(one.jobs for one in drained) / sum(one.spent.took_s for one in drained))
        if drained
        else None,
        "drain_windows": [
            {
                "jobs_per_s": round(one.jobs_per_s),
                "cpu_us_per_job": one.spent.us_per(one.jobs),
                "others_cores": one.spent.others(),
            }
            for one in drained
        ],
    }


class Feed:
    """Keeps the queue at its depth, and remembers how far the slot was at which time."""

    def __init__(self, slots: Bank, producer: Producer, depth: int) -> None:
        self._slots = slots
        self._producer = producer
        self._depth = depth
        self._x = flood.rows(CHUNK, FEATURES)
        self._samples: list[Sample] = []
        self.submitted = depth

    def until_done(self, jobs: int) -> None:
        """Raises RuntimeError when the slot stands still."""
        done, moved = -1, time.perf_counter()
        while (now := self._step()) < jobs:
            if now != done:
                done, moved = now, time.perf_counter()
            if time.perf_counter() - moved > STUCK_S:
                raise RuntimeError(f"the slot stands still at {done} jobs")

    def window(self, for_s: float) -> float:
        """Jobs/s over so many seconds."""
        started, before = time.perf_counter(), self._slots.done()
        while time.perf_counter() - started < for_s:
            self._step()
        return (self._slots.done() - before) / (time.perf_counter() - started)

    def first(self, jobs: int) -> float | None:
        """Jobs/s of the first so many: the slot's first batches, before anything is warm."""
        return rate_of_first(self._samples, jobs)

    def look(self) -> int:
        """Jobs done until now."""
        done = self._slots.done()
        self._samples.append((time.perf_counter(), done))
        return done

    def _step(self) -> int:
        done = self.look()
        if self.submitted - done < self._depth:
            self._producer.submit_many(self._slots.model, self._x)
            self.submitted += CHUNK
        else:
            time.sleep(0.0005)
        return done


def rate_of_first(samples: Sequence[Sample], jobs: int) -> float | None:
    """Jobs/s from the last look at none done to the first at so many or more; None where neither was seen."""
    idle = next((at for at, done in reversed(samples) if not done), None)
    enough = next((sample for sample in samples if sample[1] >= jobs), None)
    return enough[1] / (enough[0] - idle) if idle is not None and enough is not None else None


def drain(slots: Bank, until: int) -> list[Window]:
    """Looks on until so many jobs are done. Raises RuntimeError when the slot stands still."""
    roles = slots.roles()
    before = slots.done()
    clock, moved, last = Clock(roles), time.perf_counter(), before
    windows = []
    for border in borders(before, until, WINDOWS):
        while (done := slots.done()) < border:
            if done != last:
                last, moved = done, time.perf_counter()
            if time.perf_counter() - moved > STUCK_S:
                raise RuntimeError(f"the slot stands still at {done} of {until} jobs")
            time.sleep(LOOK_S)
        if done > before:  # a window that went by between two looks is none
            windows.append(Window(done - before, clock.spent()))
            clock, before = Clock(roles), done
    return windows


def borders(first: int, last: int, count: int) -> list[int]:
    """Where windows of equal jobs end; one window where there are too few jobs to tell several apart."""
    parts = count if last - first >= count * LEAST_WINDOW else 1
    return [first + (last - first) * number // parts for number in range(1, parts + 1)]


def ratio(rows: Sequence[dict[str, Any]]) -> float | None:
    """Jobs/s at the greatest depth held over those at the least, the mean where a depth was taken twice."""
    depths = sorted({row["backlog"] for row in rows})
    if len(depths) < 2:
        return None
    means: list[float] = []
    for depth in (depths[-1], depths[0]):
        speeds = [row["held_jobs_per_s"] for row in rows if row["backlog"] == depth]
        means.append(sum(speeds) / len(speeds))
    return round(means[0] / means[1], 3)
