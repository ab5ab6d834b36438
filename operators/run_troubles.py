"""What of bulk runs an operator should know, each with the command that shows or mends it. Pure: what it is told is what it knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from broker.run_look import OpenRun, Runs
from broker.settings import Settings
from operators.snapshot import Problem
from operators.supervised import RUNNING, Program
from operators.table import age, clean, count_of

FRESH_S = 10  # a program imports what reads and writes files before its first word
STILL_S = 120.0  # a run that is worked does rows every second, or says what it does instead
SLOW_ROWS = 20  # as many rows at its own rate a slow run may take
LOST_S = 60.0  # a lease lapses after 15 s, and within seconds the run stands in its queue again
MOST_NAMED = 3
NO_PROGRAM = "set runs.workers above 0, then `penstock down` and `penstock up`"
STAYS_DOWN = frozenset({"STOPPED", "FATAL"})  # supervisord does not start these again by itself


def troubles(settings: Settings, runs: Runs, programs: Mapping[str, Program] | None = None) -> Iterator[Problem]:
    """`programs`: those of this host's supervisord by name, None where it is down or was not asked."""
    unserved = _unserved(runs)
    silent = [programs[name] for name in _silent(settings, runs) if name in programs] if programs else []
    ours = [one for one in unserved if silent and one.host in ("", settings.host)]
    is_starting = any(map(_is_fresh, silent))
    for program in silent:
        if not _is_fresh(program):
            yield _absent(program, [] if is_starting else ours)
    yield from _waiting(settings, [one for one in unserved if one not in ours])
    still = [found for one in runs.open if one not in unserved and (found := _still(settings, one)) is not None]
    yield from still[:MOST_NAMED]
    if (more := len(still) - MOST_NAMED) > 0:
        stand = "stands" if more == 1 else "stand"
        yield Problem("warning", f"{count_of(more, 'more run')} {stand} still", "penstock run ls")


def _silent(settings: Settings, runs: Runs) -> list[str]:
    """Programs that this host shall have to work runs, and that do not beat."""
    beating = {one.name for one in runs.beats if one.host == settings.host}
    return [name for name in (f"runs_{at:02d}" for at in range(settings.runs.workers)) if name not in beating]


def _is_fresh(program: Program) -> bool:
    return program.state in RUNNING and program.up_s < FRESH_S


def _unserved(runs: Runs) -> list[OpenRun]:
    """Those that wait for a program, where no program lives that may work them."""
    hosts = {one.host for one in runs.beats}
    return [one for one in runs.open if not one.is_held and not (one.host in hosts if one.host else hosts)]


def _absent(program: Program, waiting: Sequence[OpenRun]) -> Problem:
    level = "error" if waiting else "warning"
    waits = f": {_count(waiting)}" if waiting else ""
    if program.state in RUNNING:
        text = f"the runs program {program.name} (pid {program.pid}) runs and does not beat{waits}"
        return Problem(
            level, text, f"kill -9 {program.pid}; supervisord starts the next, runs go on from their last part"
        )
    text = f"the runs program {program.name} does not run (supervisord: {program.state}){waits}"
    return Problem(level, text, "penstock up" if program.state in STAYS_DOWN else "penstock logs runs")


def _waiting(settings: Settings, unserved: Sequence[OpenRun]) -> Iterator[Problem]:
    for host in dict.fromkeys(one.host for one in unserved):
        of_host = [one for one in unserved if one.host == host]
        where = "on this host" if host == settings.host else f"on {clean(host)}" if host else "on any host"
        sees = ", which alone sees their files" if host else ""
        mend = "penstock up" if settings.runs.workers else NO_PROGRAM
        if host not in ("", settings.host):
            mend = f"`penstock up` on {clean(host)}; `penstock run show {of_host[0].id}`"
        yield Problem("error", f"{_count(of_host)}, and no program works runs {where}{sees}", mend)


def _still(settings: Settings, run: OpenRun) -> Problem | None:
    if run.state != "running":
        return None
    if not run.is_held:
        if run.quiet_s < max(LOST_S, 2 * settings.runs.slice_s):
            return None
        text = f"run {run.id} stands still: who worked it is gone for {age(run.quiet_s * 1000)}, and nobody took it up"
        return Problem("warning", text, "penstock logs runs")
    if run.quiet_s < max(STILL_S, SLOW_ROWS / run.rate if run.rate > 0 else 0.0):
        return None
    doing = f": {clean(run.doing)}" if run.doing else ""
    text = f"run {run.id} has done no row for {age(run.quiet_s * 1000)}{doing}"
    return Problem("warning", text, f"penstock run show {run.id}")


def _count(waiting: Sequence[OpenRun]) -> str:
    return f"{count_of(len(waiting), 'bulk run')} {'waits' if len(waiting) == 1 else 'wait'}"
