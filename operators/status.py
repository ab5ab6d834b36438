"""One look at the pool: models, slots and what is wrong, worst first. Reads Redis and supervisord, changes nothing.

What it gives is a `Snapshot`; what is wrong in one decides `problems`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from broker import keys, overlap, roster, spec
from broker.connection import LOST, Command, Link, safe_url
from broker.errors import RedisRefused, RedisUnavailable, SupervisorError
from broker.messages import LANES
from broker.roster import Assignment
from broker.settings import Settings
from operators.problems import find_problems
from operators.reach import reach, read_info
from operators.snapshot import AgentStatus, ModelStatus, Problem, RedisStatus, SlotStatus, Snapshot
from operators.supervision import agent_trouble
from operators.supervisor import RUNNING, Program, Supervisor
from operators.wishes import passing, per_model

FRESH_S = 5  # a program that has run for less may not have said a word yet
COUNTERS = ("submitted", "done", "failed", "dead", "expired", "cancelled", "retried")


def snapshot(settings: Settings) -> Snapshot:
    """Looks once. Never raises for a pool that is down: that is a problem in the snapshot."""
    programs, trouble = _supervised(settings)
    is_up = programs is not None
    problems = [trouble] if trouble else []
    try:
        link = reach(settings, is_reading=True)
        try:
            found = read(link, settings, programs)
        finally:
            link.close()
    except (*LOST, RedisUnavailable) as error:
        if not (settings.is_embedded and not is_up):  # with the pool down the embedded server is down as well
            text, _, own = str(error).rpartition("; ")  # our errors end in their mend
            if not text or not (isinstance(error, RedisRefused) or settings.is_embedded):
                own = "penstock doctor" if is_up else "start Redis, or mend redis.url in pool.toml; then `penstock up`"
            text, mend = text or str(error), own
            problems.insert(0, Problem("error", f"Redis does not answer: {text}", mend))
        return Snapshot(host=settings.host, at_ms=0, is_up=is_up, redis=None, problems=tuple(problems))
    if is_up and found.agent is None and (silent := _agent_problem(settings)) is not None:
        problems.append(silent)
    return msgspec.structs.replace(found, is_up=is_up, problems=(*problems, *found.problems))


def read(link: Link, settings: Settings, programs: Mapping[int, Program] | None = None) -> Snapshot:
    """Everything Redis knows, and the problems in it. `programs`: supervisord's slots, None where it is down."""
    info = read_info(link)
    now_ms = roster.now_ms(link)
    server = RedisStatus(
        url=safe_url(settings.redis_url),
        version=info.get("redis_version", ""),
        policy=info.get("maxmemory_policy", ""),
        used_bytes=int(info.get("used_memory", 0)),
        max_bytes=int(info.get("maxmemory", 0)),
    )
    names = sorted({*roster.models(link), *settings.models})
    ready = {name: frozenset(roster.ready(link, name)) for name in names}
    models = tuple(_model(link, name, len(ready[name]), settings, now_ms) for name in names)
    given = roster.assignments(link, settings.host)
    slots = _slots(link, settings, given, programs or {}, ready=frozenset().union(*ready.values()), now_ms=now_ms)
    agent = _agent(link, settings)
    problems = find_problems(
        server, models, slots, settings, has_agent=agent is not None,
        assigned=per_model(given) if programs is not None else None,
    )  # fmt: skip
    return Snapshot(
        host=settings.host, at_ms=now_ms, is_up=False, redis=server, models=models, slots=slots,
        problems=tuple(problems), agent=agent,
    )  # fmt: skip


def _supervised(settings: Settings) -> tuple[dict[int, Program] | None, Problem | None]:
    supervisor = Supervisor(settings)
    try:
        if supervisor.is_running():
            supervisor.require_ours()
            return supervisor.slots(), None
    except SupervisorError as error:
        text, _, mend = str(error).rpartition("; ")  # our errors end in their mend
        return None, Problem("error", text or mend, mend if text else "penstock doctor")
    return None, Problem("error", "the pool is not up on this host", "penstock up")


def _agent(link: Link, settings: Settings) -> AgentStatus | None:
    state = roster.agent(link, settings.host)
    return AgentStatus(*(int(state.get(name, 0)) for name in ("pid", "since_ms", "beat_ms"))) if state else None


def _agent_problem(settings: Settings) -> Problem | None:
    try:
        return agent_trouble(settings, Supervisor(settings).agent())
    except SupervisorError:
        return None  # a pool started by an older supervisord.conf, or one that goes down just now


def _model(link: Link, name: str, ready: int, settings: Settings, now_ms: int) -> ModelStatus:
    lanes = [keys.lane(name, lane) for lane in LANES]
    depth = roster.depth_commands(name)
    commands: list[Command] = [
        *depth,
        *(("XRANGE", lane, "-", "+", "COUNT", 1) for lane in lanes),
        *(("XPENDING", lane, keys.GROUP) for lane in lanes),
        ("HGETALL", keys.wanted(name)),
        ("HMGET", keys.spec(name), *spec.FIELDS),
    ]
    replies = link.call_all(commands)
    *waiting, delayed, dead, counted = replies[: len(depth)]
    oldest, pending, (wanted, published) = replies[len(depth) :][:3], replies[len(depth) + 3 :][:3], replies[-2:]
    counters = {field.decode(): int(value) for field, value in zip(counted[::2], counted[1::2], strict=True)}
    # The id of a lane's first entry is the time it came there; ids are Redis' clock, as now_ms is.
    first_ms = [int(entries[0][0].partition(b"-")[0]) for entries in oldest if entries]
    limits, version = settings.queue, ""
    if published[0] is not None:
        known = spec.read(name, published)
        limits, version = known.limits, known.spec.version
    return ModelStatus(
        name=name,
        version=version,
        wanted=sum(int(count) for count in wanted[1::2]),
        ready=ready,
        depth=dict(zip(LANES, waiting, strict=True)),
        delayed=delayed,
        claimed=sum(reply[0] for reply in pending if isinstance(reply, list)),  # an error where no slot ever claimed
        dead=dead,
        oldest_age_ms=max(0, now_ms - min(first_ms)) if first_ms else None,
        bytes=counters.get("bytes", 0),
        stored_bytes=counters.get("stored_bytes", 0),
        max_jobs=limits.max_jobs,
        max_bytes=limits.max_bytes,
        ended={name: counters.get(name, 0) for name in COUNTERS},
    )


def _slots(
    link: Link, settings: Settings, given: Mapping[int, Assignment], programs: Mapping[int, Program], *,
    ready: frozenset[str], now_ms: int,
) -> tuple[SlotStatus, ...]:  # fmt: skip
    """Slots that beat, and those assigned on this host that do not."""
    states = {name: state for name, state in roster.slots(link).items() if state}
    assigned = {roster.slot_name(settings.host, number): one for number, one in given.items()}
    ours = {roster.slot_name(settings.host, number): program for number, program in programs.items()}
    spares = {roster.slot_name(settings.host, one) for one in passing(overlap.requests(link, settings.host))}
    beats = roster.last_beats(link)
    exits: dict[str, roster.Exit] = {}
    for one in roster.exits(link):
        exits.setdefault(one.slot, one)
    restarts: dict[str, dict[str, int]] = {}
    for field, count in roster.restarts(link).items():
        slot, _, reason = field.rpartition(":")
        restarts.setdefault(slot, {})[reason] = count
    found = []
    for name in sorted(states.keys() | assigned.keys(), key=lambda name: (name.rpartition("/")[0], _number(name))):
        state, last = states.get(name, {}), exits.get(name)
        model = assigned[name].model if name in assigned else ""
        program = ours.get(name)
        is_starting = name in spares or (program is not None and program.state in RUNNING and program.up_s < FRESH_S)
        silent_s = (now_ms - beats[name]) / 1000 if program is not None and name in beats else None
        if program is not None and silent_s is not None and program.up_s + 1 < silent_s:
            silent_s = None  # a life before this one said it
        fields = _described(state)
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
        if state.get(name):
            fields[name] = int(float(state[name]))
    for name in ("mean_batch", "load_s", "p50_ms", "p99_ms"):
        if state.get(name):
            fields[name] = float(state[name])
    return fields


def _number(name: str) -> int:
    number = name.rpartition("/")[2]
    return int(number) if number.isdigit() else -1
