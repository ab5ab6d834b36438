"""Whether supervisord runs what it should, whether the agent lives and runs are worked: the doctor's checks. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from broker import roster
from broker.errors import RedisUnavailable
from broker.look import look
from broker.settings import Settings
from operators import applied, run_troubles
from operators.finding import Finding
from operators.reach import reach, reached
from operators.snapshot import Problem
from operators.supervised import RUNNING, Program
from operators.supervisor import Supervisor, SupervisorRefused
from operators.table import count_of

QUIET_S = 5  # a fresh agent may not have beaten yet
WITHOUT_AGENT = "stuck slots are not killed, retirements not overlapped"


def supervision(settings: Settings) -> Iterator[Finding]:
    """supervisord answers, is ours, and has room for most_slots and the spare."""
    supervisor = Supervisor(settings)
    if not supervisor.is_running():
        yield Finding("warn", "the pool is not up on this host", "penstock up")
        return
    supervisor.require_ours()
    places, needed = len(supervisor.slots()), settings.pool.most_slots + 1
    if places != needed:
        yield Finding(
            "warn", f"supervisord has {places} places for slots, pool.most_slots = {settings.pool.most_slots} needs {needed}",
            "penstock down; penstock up",
        )  # fmt: skip
    else:
        yield Finding("ok", f"supervisord runs (pid {supervisor.pid()}) with {places} places for slots")
    for number, program in supervisor.slots().items():
        if program.state == "FATAL":
            yield Finding(
                "fail", f"slot {number} does not start: {program.trouble or program.state}", f"see {program.log}"
            )


def agent(settings: Settings) -> Iterator[Finding]:
    """The agent beats."""
    supervisor = Supervisor(settings)
    if not supervisor.is_running():
        return  # `supervision` says it
    try:
        link = reach(settings, is_reading=True)
    except RedisUnavailable:
        return  # `redis_server` says it
    try:
        state = roster.agent(link, settings.host)
    finally:
        link.close()
    if state:
        yield Finding("ok", f"the agent beats (pid {state['pid']})")
        return
    try:
        trouble = agent_trouble(settings, supervisor.agent())
    except SupervisorRefused:
        yield Finding("warn", f"this supervisord has no agent: {WITHOUT_AGENT}", "penstock down; penstock up")
        return
    if trouble is not None:
        yield Finding("warn", trouble.text, trouble.mend)
    else:
        yield Finding("ok", "the agent is starting")


def bulk_runs(settings: Settings) -> Iterator[Finding]:
    """Programs of this host work runs, and no run stands still. By the settings in force, as `status` tells it."""
    supervisor = Supervisor(settings)
    if not supervisor.is_running():
        return
    given = applied.in_force(settings)
    try:
        with reached(given, is_reading=True) as link:
            seen = look(link, given.host).runs
    except RedisUnavailable:
        return  # `redis_server` says it
    found = list(run_troubles.troubles(given, seen, {one.name: one for one in supervisor.programs("runs")}))
    for one in found:
        yield Finding("fail" if one.level == "error" else "warn", one.text, one.mend)
    if not found:
        yield Finding(
            "ok", f"{count_of(given.runs.workers, 'program')} for bulk runs, {count_of(len(seen.open), 'run')} open"
        )


def agent_trouble(settings: Settings, program: Program) -> Problem | None:
    """What is wrong with an agent that does not beat; nothing in the first seconds of its process."""
    if program.state in RUNNING:
        if program.up_s < QUIET_S:
            return None
        text = f"the agent (pid {program.pid}) runs and does not beat: {WITHOUT_AGENT}"
        return Problem("warning", text, f"kill -9 {program.pid}; supervisord starts the next")
    text = f"no agent beats on this host (supervisord: {program.state}): {WITHOUT_AGENT}"
    log = f"see {settings.var / 'log' / 'agent.log'}"
    return Problem("warning", text, f"penstock up; {log}" if program.state in ("STOPPED", "FATAL") else log)
