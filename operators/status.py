"""One look at the pool: models, slots and what is wrong, worst first. Reads Redis and supervisord, changes nothing.

What it gives is a `Snapshot`; what is wrong in one decides `problems`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from broker import autoscale, roster
from broker.connection import LOST, Link, safe_url
from broker.errors import RedisRefused, RedisUnavailable, SupervisorError
from broker.figures import real, whole
from broker.look import Look, ModelLook, look
from broker.settings import Settings
from operators import gpu_troubles, hardware
from operators.autoscale.troubles import asleep, troubles
from operators.problems import find_problems
from operators.reach import reach
from operators.snapshot import AgentStatus, ModelStatus, Problem, RedisStatus, SlotStatus, Snapshot
from operators.supervision import agent_trouble
from operators.supervisor import RUNNING, Program, Supervisor
from operators.wishes import passing, per_model

FRESH_S = 5  # a program that has run for less may not have said a word yet
RATE_HOLDS_MS = 10_000  # slots note the rate at which they settle once a second, while they do
COUNTERS = ("submitted", "done", "failed", "dead", "expired", "cancelled", "retried")


def snapshot(settings: Settings) -> Snapshot:
    """Looks once. Never raises for a pool that is down: that is a problem in the snapshot."""
    sight = Sight(settings)
    try:
        return sight.look()
    finally:
        sight.close()


class Sight:
    """Looks again and again over one connection; one that was lost is made anew by the next look."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._link: Link | None = None

    def look(self) -> Snapshot:
        """Never raises for a pool that is down: that is a problem in the snapshot."""
        settings = self._settings
        programs, trouble = _supervised(settings)
        is_up = programs is not None
        problems = [trouble] if trouble else []
        try:
            if self._link is None:
                self._link = reach(settings, is_reading=True)
            found = read(self._link, settings, programs)
        except (*LOST, RedisUnavailable) as error:
            self.close()
            if not (settings.is_embedded and not is_up):  # with the pool down the embedded server is down as well
                problems.insert(0, _away(settings, error, is_up=is_up))
            return Snapshot(host=settings.host, at_ms=0, is_up=is_up, redis=None, problems=tuple(problems))
        if is_up and found.agent is None and (silent := _agent_problem(settings)) is not None:
            problems.append(silent)
        return msgspec.structs.replace(found, is_up=is_up, problems=(*problems, *found.problems))

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def read(link: Link, settings: Settings, programs: Mapping[int, Program] | None = None) -> Snapshot:
    """Everything Redis knows, and the problems in it. `programs`: supervisord's slots, None where it is down."""
    seen = look(link, settings.host, settings.models)
    server = RedisStatus(
        url=safe_url(settings.redis_url),
        version=seen.info.get("redis_version", ""),
        policy=seen.info.get("maxmemory_policy", ""),
        used_bytes=int(seen.info.get("used_memory", 0)),
        max_bytes=int(seen.info.get("maxmemory", 0)),
    )
    models = tuple(_model(one, settings, seen.now_ms) for one in seen.models)
    slots = _slots(seen, settings, programs or {})
    agent = _agent(seen)
    garbled = (_split(trouble) for trouble in (seen.trouble, *(one.trouble for one in seen.models)) if trouble)
    problems = [Problem("error", text, mend) for text, mend in garbled]
    problems += find_problems(
        server, models, slots, settings, has_agent=agent is not None,
        assigned=per_model(seen.assignments) if programs is not None and not seen.trouble else None, now_ms=seen.now_ms,
        asleep=asleep(agent.autoscale) if agent is not None else (),
    )  # fmt: skip
    if agent is not None:
        problems += troubles(settings, agent.autoscale)
        problems += gpu_troubles.troubles(settings, agent.devices, seen.assignments)
        problems.sort(key=lambda problem: problem.level != "error")  # errors first, else as they are
    return Snapshot(
        host=settings.host, at_ms=seen.now_ms, is_up=False, redis=server, models=models, slots=slots,
        problems=tuple(problems), agent=agent,
    )  # fmt: skip


def _away(settings: Settings, error: Exception, *, is_up: bool) -> Problem:
    text, own = _split(str(error))
    if not text or not (isinstance(error, RedisRefused) or settings.is_embedded):
        own = "penstock doctor" if is_up else "start Redis, or mend redis.url in pool.toml; then `penstock up`"
    return Problem("error", f"Redis does not answer: {text or error}", own)


def _split(error: str) -> tuple[str, str]:
    """Our errors end in their mend."""
    text, _, mend = error.rpartition("; ")
    return text, mend


def _supervised(settings: Settings) -> tuple[dict[int, Program] | None, Problem | None]:
    supervisor = Supervisor(settings)
    try:
        if supervisor.is_running():
            supervisor.require_ours()
            return supervisor.slots(), None
    except SupervisorError as error:
        text, mend = _split(str(error))
        return None, Problem("error", text or mend, mend if text else "penstock doctor")
    return None, Problem("error", "the pool is not up on this host", "penstock up")


def _agent(seen: Look) -> AgentStatus | None:
    state = seen.agent
    if not state:
        return None
    pid, since_ms, beat_ms = (whole(state.get(name)) or 0 for name in ("pid", "since_ms", "beat_ms"))
    return AgentStatus(
        pid, since_ms, beat_ms, devices=hardware.decode(state.get(hardware.FIELD, "")),
        autoscale=autoscale.decode(state.get(autoscale.FIELD, "")),
    )  # fmt: skip


def _agent_problem(settings: Settings) -> Problem | None:
    try:
        return agent_trouble(settings, Supervisor(settings).agent())
    except SupervisorError:
        return None  # a pool started by an older supervisord.conf, or one that goes down just now


def _model(one: ModelLook, settings: Settings, now_ms: int) -> ModelStatus:
    known = one.published
    limits = known.limits if known else settings.queue
    chosen = settings.models.get(one.name)
    is_fresh = now_ms - one.counters.get("mark_ms", 0) < RATE_HOLDS_MS
    return ModelStatus(
        name=one.name,
        version=known.spec.version if known else "",
        wanted=sum(one.wanted.values()),
        ready=len(one.ready),
        depth=one.depth,
        delayed=one.delayed,
        claimed=one.claimed,
        dead=one.dead,
        oldest_age_ms=None if one.first_ms is None else max(0, now_ms - one.first_ms),
        bytes=one.counters.get("bytes", 0),
        stored_bytes=one.counters.get("stored_bytes", 0),
        max_jobs=limits.max_jobs,
        max_bytes=limits.max_bytes,
        ended={name: one.counters.get(name, 0) for name in COUNTERS},
        max_rows=(chosen.max_rows if chosen else 0) or (known.spec.max_rows if known else 0),
        jobs_per_s=float(one.counters.get("rate", 0)) if is_fresh else 0.0,
        paused=one.paused,
    )


def _slots(seen: Look, settings: Settings, programs: Mapping[int, Program]) -> tuple[SlotStatus, ...]:
    """Slots that beat, and those assigned on this host that do not."""
    states = {name: state for name, state in seen.states.items() if state}
    assigned = {roster.slot_name(settings.host, number): one for number, one in seen.assignments.items()}
    ours = {roster.slot_name(settings.host, number): program for number, program in programs.items()}
    spares = {roster.slot_name(settings.host, one) for one in passing(seen.requests)}
    ready = frozenset().union(*(one.ready for one in seen.models))
    beats = seen.beats
    exits: dict[str, roster.Exit] = {}
    for one in seen.exits:
        exits.setdefault(one.slot, one)
    restarts: dict[str, dict[str, int]] = {}
    for field, count in seen.restarts.items():
        slot, _, reason = field.rpartition(":")
        restarts.setdefault(slot, {})[reason] = count
    found = []
    for name in sorted(states.keys() | assigned.keys(), key=lambda name: (name.rpartition("/")[0], _number(name))):
        state, last = states.get(name, {}), exits.get(name)
        model = assigned[name].model if name in assigned else ""
        program = ours.get(name)
        is_starting = name in spares or (program is not None and program.state in RUNNING and program.up_s < FRESH_S)
        silent_s = (seen.now_ms - beats[name]) / 1000 if program is not None and name in beats else None
        if program is not None and silent_s is not None and program.up_s + 1 < silent_s:
            silent_s = None  # a life before this one said it
        fields = _described(state)
        if name in assigned and assigned[name].device.startswith(("GPU-", "MIG-")):
            fields["gpu"] = assigned[name].device
        if program is not None and program.pid and not state:
            fields["pid"] = program.pid
        found.append(
            SlotStatus(
                name=name,
                number=_number(name),
                model=state.get("model") or model,
                state=state.get("state") or ("" if state else "starting" if is_starting else "silent"),
                is_ready=name in ready,
                last_exit=last.reason if last else "",
                last_exit_detail=last.detail if last else "",
                restarts=restarts.get(name, {}),
                program=program.state if program is not None else "",
                silent_s=silent_s,
                **fields,
            )
        )
    return tuple(found)


def _described(state: dict[str, str]) -> dict[str, Any]:
    """The fields a slot wrote, in their types; what it left out or left empty keeps its default."""
    fields: dict[str, Any] = {}
    for name in ("reason", "version", "device"):
        fields[name] = state.get(name, "")
    for name in (
        "pid", "engine_pid", "jobs", "batches", "rows", "held", "host_bytes", "host_baseline_bytes", "device_bytes",
        "device_baseline_bytes", "since_ms",
    ):  # fmt: skip
        if (count := whole(state.get(name))) is not None:
            fields[name] = count
    for name in ("mean_batch", "load_s", "p50_ms", "p99_ms"):
        if (figure := real(state.get(name))) is not None:
            fields[name] = figure
    return fields


def _number(name: str) -> int:
    number = name.rpartition("/")[2]
    return int(number) if number.isdigit() else -1
