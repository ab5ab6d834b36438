"""Jobs that raise, that kill their engine, that fail now and then, and too many of them."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import mean

from broker import keys
from tests.chaos.case import Case, Seen, judged
from tests.chaos.fake import ABORT, FLAKY, MODEL, OK, RAISE
from tests.chaos.stage import staged
from tests.chaos.traffic import Traffic

RAISE_EVERY, ABORT_EVERY = 100, 1000
OVERLOAD_ROWS, OVERLOAD_MS, OVERLOAD_DEPTH, OVERLOAD_TIMES = 4, 5.0, 400, 3
FLAT = 0.05


def poison(jobs: int) -> Seen:
    """1 % of the inputs raise, 0.1 % end the process: those fail, those die after three engines, all others are answered."""
    seen = Seen()
    codes: list[int] = []

    def code(serial: int) -> int:
        number = len(codes)
        codes.append(ABORT if number % ABORT_EVERY == 50 else RAISE if number % RAISE_EVERY == 7 else OK)
        return codes[-1]

    with staged(slots=3) as stage, judged(stage, seen) as hand_in:
        with Traffic(stage.url, per_s=2_000, count=jobs, code=code) as traffic:
            hand_in(traffic.finish(600, stop=False))
    raising, aborting = codes.count(RAISE), codes.count(ABORT)
    seen.faults = raising + aborting
    seen.expect(seen.tally.failed == raising, f"{seen.tally.failed} failed, {raising} were to")
    seen.expect(seen.tally.dead == aborting, f"{seen.tally.dead} were given up, {aborting} were to")
    return seen


def retry_storm(jobs: int) -> Seen:
    """Every forward of every job fails with 30 %: all come through by retries, or are given up for want of them."""
    seen = Seen()
    with staged() as stage, judged(stage, seen) as hand_in:
        with Traffic(stage.url, per_s=2_000, count=jobs, code=lambda serial: FLAKY, retries=5) as traffic:
            hand_in(traffic.finish(600, stop=False))
        seen.faults = int(stage.call("HGET", keys.counters(MODEL), "retried") or 0)
    gone = seen.tally.dead + seen.tally.failed
    seen.expect(seen.faults > 0, "nothing was retried")
    seen.expect(gone <= max(3, 0.01 * jobs), f"{gone} jobs were given up; six tries at 30 % should leave 0.07 %")
    return seen


def overload(seconds: int) -> Seen:
    """Three times what the pool can do: the queue stays at its cap, the rest is refused, memory is flat."""
    seen = Seen()
    capacity = 2 * OVERLOAD_ROWS / (OVERLOAD_MS / 1e3)
    with (
        staged(
            forward_ms=OVERLOAD_MS,
            model={"max_rows": OVERLOAD_ROWS},
            queue={"max_jobs": OVERLOAD_DEPTH},
            retire={"max_jobs": 0},
        ) as stage,
        judged(stage, seen) as hand_in,
    ):
        pids = [int(state["pid"]) for state in stage.ready().values()]
        samples: list[tuple[float, int, int]] = []
        deepest = 0
        with Traffic(stage.url, per_s=OVERLOAD_TIMES * capacity, wait_s=None, result_ttl_s=2) as traffic:
            began = time.monotonic()
            while (at := time.monotonic() - began) < seconds:
                deepest = max(deepest, stage.books().depth)
                used = int(stage.call("INFO", "memory").split(b"used_memory:")[1].split(b"\r")[0])
                samples.append((at, used, sum(map(_resident, pids))))
                time.sleep(0.05)
            hand_in(traffic.finish())
    seen.faults = seen.tally.refused
    seen.expect(deepest <= OVERLOAD_DEPTH, f"the queue held {deepest} jobs, its cap is {OVERLOAD_DEPTH}")
    seen.expect(seen.tally.refused > 0, "nothing was refused")
    seen.note(deepest=deepest, jobs_per_s=round(seen.tally.done / seconds))
    for name, column in (("redis", 1), ("slots", 2)):
        growth = _growth([sample[column] for sample in samples])
        seen.note(**{f"{name}_growth": round(growth, 3)})
        seen.expect(seconds < 10 or growth < FLAT, f"memory of {name} grew by {growth:.0%}")
    return seen


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def _growth(values: list[int]) -> float:
    """The last quarter's mean over the second quarter's, less one; the first quarter fills caches."""
    quarter = len(values) // 4
    return mean(values[3 * quarter :]) / mean(values[quarter : 2 * quarter]) - 1 if quarter else 0.0


CASES = (
    Case("1 % raise, 0.1 % kill their engine", poison, "jobs", 200, 2_000, 50_000),
    Case("retry storm, 30 % failures", retry_storm, "jobs", 200, 2_000, 50_000),
    Case("overload, three times the capacity", overload, "seconds", 3, 20, 600),
)
