"""`python -m benchmarks.beside [--quick]`: what a bulk run that saturates the pool costs a high lane that is a fifth loaded.

One pool of one slot, and the open loop's model: it sleeps 5 ms for up to 16 rows and uses no core. Its capacity is the open loop's
too, the jobs of one row that a flood gets done a second; the high lane's client is Poisson at 20 % of that and sends the same
arrivals first alone, then beside the run, in turns. The run goes the way of every run: submitted, worked by the runs program. It must
be at work all the time, or there is no figure (`company`). A low batch is a forward of the run's rows and no others, as long as the
model itself saw it take, which is a little less than the slot does.

Wanted: its p99 beside the run is at most its p99 alone and one low batch. The figure is the median of the rounds' own; it is none where
the client itself was later than a low batch at p99, by the median round, alone or beside the run: that is the machine's other work.
Bodies of the run's jobs stand in a folder of /dev/shm, as docs/runs.md advises for one host.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from benchmarks import arrivals, company, flood, forwards, machine, openloop, report, runs, sleeper
from benchmarks.arrivals import Open
from benchmarks.openloop import MAX_ROWS, SLEEP_MS
from benchmarks.pools import Pool, running
from benchmarks.stand import ROOT, Stand
from broker.errors import PenstockError

MODEL = "sleeper"
LOAD = 20  # percent
SEED = 5
SPARE_S = 15.0  # of input: before the measured time, and what the run may have ahead
QUIET_S, QUIET_WITHIN_S = 0.2, 10.0
WANTED = 1.0  # low batches
RESULTS = Path(__file__).resolve().parent / "results" / "beside.txt"


class Size(msgspec.Struct, frozen=True):
    """Rounds, each once alone and once beside the run for `parts` times `part_s`; the run must write rows in every part."""

    rounds: int
    parts: int
    part_s: float

    @property
    def lasts_s(self) -> float:
        return self.parts * self.part_s


FULL, QUICK = Size(5, 4, 4.0), Size(3, 2, 3.0)


class Round(msgspec.Struct, frozen=True):
    """The high lane alone and beside the run, and what the run did meanwhile."""

    alone: Open
    beside: Open
    work: company.Work

    @property
    def low_ms(self) -> float:
        return median(self.work.low_ms)

    @property
    def added(self) -> float:
        """What the run adds to the p99, in low batches."""
        return (self.beside.latency.p99_ms - self.alone.latency.p99_ms) / self.low_ms

    @property
    def late(self) -> float:
        """How late the client itself was at p99, in low batches."""
        return max(self.alone.late.p99_ms, self.beside.late.p99_ms) / self.low_ms


def measure(folder: Path, size: Size, bodies: str, say: Callable[[str], Any]) -> dict[str, Any]:
    """All rounds, in one pool. Raises PenstockError, and RuntimeError where the run was not at work."""
    notes, source = folder / "forwards", folder / "input.parquet"
    artifact = sleeper.build(folder / MODEL, sleep_ms=SLEEP_MS, max_rows=MAX_ROWS, name=MODEL, notes=notes)
    runs.write_input(source, round((size.lasts_s + SPARE_S) * MAX_ROWS / SLEEP_MS * 1e3))
    x = flood.rows(1024, sleeper.FEATURES)
    x[:, 0] = forwards.MARK
    rounds: list[Round] = []
    with running(
        folder / "pool.toml", model=MODEL, artifact=artifact, slots=1, retire={"max_jobs": 0}, bodies=bodies
    ) as pool:
        runs.wait_for_program(pool)
        most = openloop.highest(_stand(pool), rounds=min(3, size.rounds))
        rate, url = most * LOAD / 100, pool.settings.redis_url
        for number in range(size.rounds):
            due = arrivals.schedule(rate, size.lasts_s, SEED + number).tolist()
            _wait_until_quiet(notes)
            alone = arrivals.run(url, MODEL, x, due, rate, lane="high")
            with (
                company.at_work(pool, source, folder / f"scored-{number}.parquet") as id,
                company.Watch(pool.settings.redis_url_as("operator"), id) as watch,
            ):
                beside = arrivals.run(url, MODEL, x, due, rate, lane="high")
            work = company.require_at_work(watch.looks, forwards.read(notes), parts=size.parts, part_s=size.part_s)
            rounds.append(Round(alone, beside, work))
            say(_line(number + 1, rounds[-1]))
        about = report.about(pool.link)
    return about | {
        "rounds": rounds, "lasts_s": size.lasts_s, "bodies": "Redis" if bodies == "redis" else "/dev/shm",
        "highest": most, "rate": rate, "load_1m": machine.load_1m(),
    }  # fmt: skip


def _stand(pool: Pool) -> Stand:
    ((name, state),) = pool.states().items()
    return Stand(pool.settings.redis_url, pool.model, name, int(state["pid"]), int(state["engine_pid"]), pool.link)


def _wait_until_quiet(notes: Path) -> None:
    """Until no forward ended for a moment: what a run left behind is through."""
    deadline = time.monotonic() + QUIET_WITHIN_S
    while time.monotonic() - forwards.read(notes)[-1].ended_at < QUIET_S:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the slot is still busy {QUIET_WITHIN_S:g} s after the run was cancelled")
        time.sleep(QUIET_S)


def _line(number: int, one: Round) -> str:
    return (
        f"round {number}: p99 alone {one.alone.latency.p99_ms:.2f} ms, beside {one.beside.latency.p99_ms:.2f} ms; "
        f"a low batch {one.low_ms:.2f} ms; so {one.added:+.2f} of it; run {one.work.rows_per_s:.0f} rows/s"
    )


def text(figures: dict[str, Any]) -> str:
    """The page."""
    rounds: list[Round] = figures["rounds"]
    works = [one.work for one in rounds]
    added, is_quiet = median(one.added for one in rounds), median(one.late for one in rounds) <= 1
    fed, gap_s = min(work.fed_share for work in works), max(work.longest_gap_s for work in works)
    return "\n".join(
        [
            f"high lane at {LOAD} % of a slot, alone and beside a bulk run that saturates it; model sleeps {SLEEP_MS:g} ms for up to "
            f"{MAX_ROWS} rows, bodies in {figures['bodies']}; {len(rounds)} rounds of {figures['lasts_s']:g} s each in turns",
            f"{figures['machine']}, {figures['cores']} cores; {figures['server']}; {figures['date']}; load {figures['load_1m']:.1f}",
            f"the slot's highest rate, jobs of one row: {report.figure(figures['highest'], 0)} jobs/s; the high lane: Poisson, "
            f"{report.figure(figures['rate'], 0)} jobs/s",
            f"high lane alone:          {_centiles([one.alone for one in rounds])}",
            f"high lane beside the run: {_centiles([one.beside for one in rounds])}",
            f"a low batch, forward of the run's rows alone: {_spread([one.low_ms for one in rounds])} ms",
            f"added to the p99, in low batches: {added:.2f} ({', '.join(f'{one.added:.2f}' for one in rounds)}); "
            f"{report.verdict(added if is_quiet else None, most=WANTED)}{'' if is_quiet else ', the machine was busy'}",
            f"run meanwhile: {_spread([work.rows_per_s for work in works], 0)} rows/s forwarded, "
            f"{_spread([work.written_per_s for work in works], 0)} written; its rows in {fed:.1%} of the forwards at least, "
            f"in none for {gap_s * 1e3:.0f} ms at most",
        ]
    )  # fmt: skip


def _centiles(opens: Sequence[Open]) -> str:
    centiles = (("p50", [one.latency.p50_ms for one in opens]), ("p99", [one.latency.p99_ms for one in opens]))
    late = median(one.late.p99_ms for one in opens)
    return (
        ", ".join(f"{name} {_spread(values)} ms" for name, values in centiles) + f"; client late {late:.2f} ms at p99"
    )


def _spread(values: Sequence[float], digits: int = 2) -> str:
    return f"{report.figure(median(values), digits)} ({report.figure(min(values), digits)} to {report.figure(max(values), digits)})"


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.beside", description="A high lane alone and beside a bulk run."
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK.rounds} short rounds; writes no results")
    parser.add_argument("--bodies", choices=("shm", "redis"), default="shm", help="where the jobs' rows stand")
    given = parser.parse_args(argv)
    (ROOT / "var").mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=ROOT / "var") as folder,
        tempfile.TemporaryDirectory(prefix="penstock-", dir="/dev/shm") as shm,
    ):
        bodies = shm if given.bodies == "shm" else "redis"
        try:
            figures = measure(
                Path(folder), QUICK if given.quick else FULL, bodies, lambda line: print(line, file=sys.stderr)
            )
        except (PenstockError, RuntimeError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(text(figures))
    if not given.quick:
        report.write_text(RESULTS, text(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
