"""The pool of this host: up, down, scale. Puts supervisord, assignments and wanted slots in step.

Never touches a payload, and never a slot it was not asked about. Commands that change the pool hold its lock (`pool_lock`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from broker import embedded, overlap, roster
from broker.arrangement import arrange
from broker.connection import LOST, Link
from broker.errors import ConfigError, RedisUnavailable, SupervisorError
from broker.settings import Settings, unknown
from operators import applied, placement
from operators.daemon import remove_runtime, start_daemon
from operators.leavers import take_out
from operators.patience import telling
from operators.plan import assignment, check_artifact, plan
from operators.pool_lock import changing
from operators.reach import HANGS, reach, read_info
from operators.readiness import last_line
from operators.supervised import RUNNING
from operators.supervisor import REDIS_ENDS_WITHIN_S, RUNS_END_WITHIN_S, Supervisor, SupervisorRefused, stop_wait_s
from operators.table import count_of
from operators.wishes import passing, per_model, placed, publish, withdraw

LOADING_WAIT_S = 600.0  # a large append-only file takes its time
ORPHANS_WAIT_S = 10.0
POLL_S = 0.1

Say = Callable[[str], None]


class Changed(msgspec.Struct, frozen=True):
    """What a command did: slot numbers started and stopped, and whether the pool was up before."""

    was_up: bool
    started: tuple[int, ...] = ()
    stopped: tuple[int, ...] = ()
    queued_jobs: int = 0  # left in Redis, for `down`
    since_ms: int = 0  # Redis time before anything was started: what slots said earlier is of another life


def up(settings: Settings, *, say: Say) -> Changed:
    """Starts supervisord, Redis where it is ours, and the slots; returns before they are ready.

    A pool that is up keeps its settings and assignments (`scale` may have changed them) and gets what is missing.
    Raises ConfigError, ArtifactError, RedisUnavailable or SupervisorError; what it started by then is stopped again.
    """
    if not settings.models:
        raise ConfigError(
            f"no models in {settings.path or 'pool.toml'}; add a [models.NAME] table with artifact = FOLDER"
        )
    for model in settings.models:
        check_artifact(settings, model)
    placement.check(settings)
    if not settings.is_embedded:
        reach(settings, within_s=settings.redis.connect_s).close()
    with changing(settings):
        supervisor = Supervisor(settings)
        was_up = supervisor.is_running()
        if was_up:
            supervisor.require_ours()
            say(f"the pool is already up (supervisord pid {supervisor.pid()}); starting what is missing")
            asked, settings = settings, applied.in_force(settings)
            if asked != settings:
                say(
                    "pool.toml has changed since; `penstock config diff` shows how, `penstock config reload` applies it"
                )
        else:
            applied.remove(settings)
            applied.write(settings, applied.file_text(settings))
            supervisor = start_daemon(settings)
        try:
            with contextlib.suppress(SupervisorRefused):  # a pool that an older supervisord.conf started has no agent
                supervisor.start_agent()
            if was_up and settings.runs.workers:
                supervisor.start_runs()
            link = _reach_started(settings, supervisor, say)
            since_ms = roster.now_ms(link)
            kept = roster.assignments(link, settings.host) if was_up else {}
            wished = kept or publish(settings, link)
            spares = passing(overlap.requests(link, settings.host))
            if per_model({n: given for n, given in wished.items() if n not in spares}) != per_model(plan(settings)):
                say("slots stay as `penstock scale` or `penstock drain` left them")
            link.close()
            missing = [number for number, program in supervisor.slots().items() if program.state not in RUNNING]
            started = tuple(number for number in missing if number in wished)
            supervisor.start_slots(started)
        except BaseException:  # Ctrl-C and what Redis refuses too: half a pool is nobody's wish
            if not was_up:
                supervisor.shutdown()
                remove_runtime(settings)
                applied.remove(settings)
            raise
    return Changed(was_up=was_up, started=started, since_ms=since_ms)


def down(settings: Settings, *, say: Say) -> Changed:
    """Drains every slot, ends the embedded Redis and supervisord, and removes the sockets. Safe to repeat.

    Raises SupervisorError when the socket is another pool's or something does not end.
    """
    with changing(settings):
        supervisor = Supervisor(settings)
        if not supervisor.is_running():
            _require_no_orphans(settings)
            remove_runtime(settings)
            applied.remove(settings)
            return Changed(was_up=False)
        supervisor.require_ours()
        running = tuple(n for n, program in supervisor.slots().items() if program.state not in ("STOPPED", "FATAL"))
        if running:
            say(f"draining {count_of(len(running), 'slot')} (at most {settings.slot.drain_s:g} s)")
        slots, most_s = count_of(len(running), "slot"), stop_wait_s(settings)
        with telling(say, f"{slots} to drain", most_s=most_s, then="supervisord kills what is left then"):
            supervisor.stop_slots(running)
        queued = withdraw(settings)
        what = "Redis to write its file out and end" if settings.is_embedded else "supervisord to end"
        ends_s = REDIS_ENDS_WITHIN_S + (RUNS_END_WITHIN_S if settings.runs.workers else 0.0)  # one after the other
        with telling(say, what, most_s=ends_s, then="supervisord kills it then"):
            supervisor.shutdown()
        remove_runtime(settings)
        applied.remove(settings)
    return Changed(was_up=True, stopped=running, queued_jobs=queued)


def scale(settings: Settings, model: str, count: int) -> Changed:
    """Gives the model `count` slots on this host, touching no other slot. New slots take the lowest free numbers.

    Holds until the next fresh `up`, which follows pool.toml. Raises ConfigError for an unknown model or more slots than
    pool.most_slots, as the pool runs with them; SupervisorError when the pool is not up.
    """
    if model not in settings.models:
        raise ConfigError(unknown("model", model, settings.models))
    supervisor = Supervisor(settings)
    supervisor.require()
    with changing(settings):
        settings = applied.in_force(settings)
        if model not in settings.models:
            raise ConfigError(f"the running pool does not know {model} yet; `penstock config reload` applies pool.toml")
        link = reach(settings)
        since_ms = roster.now_ms(link)
        spares = passing(overlap.requests(link, settings.host))  # each stands for a slot that is counted
        held = {n: given for n, given in roster.assignments(link, settings.host).items() if n not in spares}
        own = [number for number, given in held.items() if given.model == model]
        others = len(held) - len(own)
        if others + count > settings.pool.most_slots:
            raise ConfigError(
                f"{model}: {count} slots are too many, this host runs at most pool.most_slots = {settings.pool.most_slots}"
                + (f" and other models hold {others}" if others else "")
                + f"; ask for {settings.pool.most_slots - others} or fewer, or raise pool.most_slots"
            )
        if count > len(own):
            check_artifact(settings, model)
        free = [number for number in range(settings.pool.most_slots + 1) if number not in {*held, *spares}]
        new = free[: max(0, count - len(own))]
        surplus = own[count:]
        given = placed(settings, link, dict.fromkeys(new, assignment(settings, model)))
        arrange(link, settings.host, wanted={model: max(count, len(own))}, assigned=given)
        supervisor.start_slots([*new, *own[:count]])
        if surplus:
            take_out(settings, link, supervisor, dict.fromkeys(surplus, model), wanted={model: count})
        link.close()
    return Changed(was_up=True, started=tuple(new), stopped=tuple(surplus), since_ms=since_ms)


def _reach_started(settings: Settings, supervisor: Supervisor, say: Say) -> Link:
    """A Link to Redis; the embedded one must be the server that supervisord runs, not one that outlived its own."""
    if not settings.is_embedded:
        return reach(settings, within_s=settings.redis.connect_s)
    supervisor.start_redis()
    deadline = time.monotonic() + settings.redis.connect_s
    loading_until = time.monotonic() + LOADING_WAIT_S
    is_said = False
    while True:
        program = supervisor.redis()
        try:
            link = reach(settings)
            if int(read_info(link)["process_id"]) == program.pid:
                return link
            link.close()
            why = "another server still holds its socket"
        except (*LOST, RedisUnavailable) as error:
            why = str(error)
        is_loading = "LOADING" in why
        if is_loading and not is_said:
            say("Redis is reading its append-only file")
            is_said = True
        if program.state == "FATAL" or time.monotonic() > (loading_until if is_loading else deadline):
            if HANGS in why:
                raise RedisUnavailable(why)
            log = settings.var / "log" / "redis.log"
            raise RedisUnavailable(f"the embedded Redis does not start: {last_line(log) or why}; see {log}")
        time.sleep(POLL_S / 2)


def _require_no_orphans(settings: Settings) -> None:
    """After a kill -9 of supervisord its programs end by themselves; raises SupervisorError, naming those that do not.

    Their sockets are not taken from under them.
    """
    deadline = time.monotonic() + ORPHANS_WAIT_S
    paths = [embedded.lock_path(settings), *sorted(settings.var.glob("slot-*.lock"))]
    while held := [path for path in paths if _is_held(path)]:
        if time.monotonic() > deadline:
            raise SupervisorError(
                "supervisord is gone, but programs it started still run and hold "
                + ", ".join(str(path) for path in held)
                + "; find each by `fuser FILE`, end it by its id, then try again"
            )
        time.sleep(POLL_S)


def _is_held(path: Path) -> bool:
    if not path.exists():
        return False
    lock = embedded.take_lock(path)
    if lock is not None:
        os.close(lock)
    return lock is None
