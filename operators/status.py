"""One look at the pool: models, slots and what is wrong, worst first. Reads Redis and supervisord, changes nothing.

What it gives is a `Snapshot`; what is wrong in one decides `problems`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from broker import autoscale
from broker.connection import LOST, Link, safe_url
from broker.errors import RedisRefused, RedisUnavailable, SupervisorError
from broker.figures import whole
from broker.look import Look, ModelLook, look
from broker.settings import Settings
from operators import gpu_troubles, hardware, run_troubles, slots_seen
from operators.autoscale.troubles import asleep, troubles
from operators.governing import Governing
from operators.problems import find_problems
from operators.reach import reach
from operators.snapshot import AgentStatus, ModelStatus, Problem, RedisStatus, Snapshot
from operators.supervised import Program, numbered
from operators.supervision import agent_trouble
from operators.supervisor import Supervisor
from operators.wishes import per_model

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
        self._governing = Governing(settings)
        self._link: Link | None = None
        self._url = ""

    def look(self) -> Snapshot:
        """Never raises for a pool that is down: that is a problem in the snapshot."""
        settings, of_file = self._settings, tuple[Problem, ...]()
        programs, trouble = _supervised(settings)
        is_up = programs is not None
        if is_up:
            settings, of_file = self._governing.look()
        slots, of_runs = _parted(programs)
        problems = [trouble] if trouble else []
        try:
            if self._link is None or self._url != settings.redis_url:
                self.close()
                self._link, self._url = reach(settings, is_reading=True), settings.redis_url
            found = read(self._link, settings, slots, of_runs)
        except (*LOST, RedisUnavailable) as error:
            self.close()
            if not (settings.is_embedded and not is_up):  # with the pool down the embedded server is down as well
                problems.insert(0, _away(settings, error, is_up=is_up))
            problems += of_file
            return Snapshot(host=settings.host, at_ms=0, is_up=is_up, redis=None, problems=tuple(problems))
        if is_up and found.agent is None and (silent := _agent_problem(settings)) is not None:
            problems.append(silent)
        problems = sorted([*problems, *found.problems, *of_file], key=_worst_first)
        return msgspec.structs.replace(found, is_up=is_up, problems=tuple(problems))

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def read(
    link: Link, settings: Settings, programs: Mapping[int, Program] | None = None, of_runs: Mapping[str, Program] | None = None
) -> Snapshot:  # fmt: skip
    """Everything Redis knows, and the problems in it. `programs`: supervisord's slots, None where it is down; `of_runs`: those
    that work bulk runs, by name."""
    seen = look(link, settings.host, settings.models)
    server = RedisStatus(
        url=safe_url(settings.redis_url),
        version=seen.info.get("redis_version", ""),
        policy=seen.info.get("maxmemory_policy", ""),
        used_bytes=int(seen.info.get("used_memory", 0)),
        max_bytes=int(seen.info.get("maxmemory", 0)),
    )
    models = tuple(_model(one, settings, seen.now_ms) for one in seen.models)
    slots = slots_seen.slots(seen, settings, programs or {})
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
    problems += run_troubles.troubles(settings, seen.runs, of_runs)
    problems.sort(key=_worst_first)
    return Snapshot(
        host=settings.host, at_ms=seen.now_ms, is_up=False, redis=server, models=models, slots=slots,
        problems=tuple(problems), agent=agent,
    )  # fmt: skip


def _worst_first(problem: Problem) -> bool:
    """Errors first, else as they are."""
    return problem.level != "error"


def _away(settings: Settings, error: Exception, *, is_up: bool) -> Problem:
    text, own = _split(str(error))
    if not text or not (isinstance(error, RedisRefused) or settings.is_embedded):
        own = "penstock doctor" if is_up else "start Redis, or mend redis.url in pool.toml; then `penstock up`"
    return Problem("error", f"Redis does not answer: {text or error}", own)


def _split(error: str) -> tuple[str, str]:
    """Our errors end in their mend."""
    text, _, mend = error.rpartition("; ")
    return text, mend


def _parted(programs: Sequence[Program] | None) -> tuple[dict[int, Program] | None, dict[str, Program] | None]:
    """Slots by number, and programs that work runs by name."""
    if programs is None:
        return None, None
    of_runs = {one.name: one for one in programs if one.name.startswith("runs_")}
    return numbered(one for one in programs if one.name not in of_runs), of_runs


def _supervised(settings: Settings) -> tuple[list[Program] | None, Problem | None]:
    supervisor = Supervisor(settings)
    try:
        if supervisor.is_running():
            supervisor.require_ours()
            return supervisor.programs("slot", "runs"), None
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
