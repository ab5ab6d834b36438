"""The agent's look at its host: supervisord's programs, the kernel's word on their age, and what Redis knows. Reads only."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from broker import autoscale, overlap, roster
from broker.autoscale import Override
from broker.connection import Link, ResponseError
from broker.figures import real, whole
from broker.overlap import Request
from broker.roster import Assignment
from operators import devices
from operators.places import Place, Seen
from operators.supervisor import Program, Supervisor


def look(link: Link, supervisor: Supervisor, now_ms: int) -> Seen:
    """One look. Raises SupervisorError, or one of connection.LOST."""
    host = supervisor.settings.host
    programs = supervisor.slots()
    # Before the assignments: a FLUSHALL between the two must not pass for "none was set".
    overrides = _overrides(link, host)
    assignments = roster.assignments(link, host)
    requests = overlap.requests(link, host)
    names = {number: roster.slot_name(host, number) for number in programs}
    states = roster.states(link, list(names.values()))
    beats = roster.last_beats(link)
    models = sorted({given.model for given in assignments.values()})
    ready = frozenset().union(*roster.ready_of(link, models, now_ms).values())
    places = {}
    for number, program in programs.items():
        name = names[number]
        age_s = (now_ms - beats[name]) / 1000 if name in beats else None
        places[number] = _place(number, program, states[name], assignments.get(number), age_s, name in ready)
    known = {*roster.models(link), *supervisor.settings.models} if not assignments else set()
    is_meant = any(host in roster.wanted(link, model) for model in known)
    return _measured(Seen(now_ms=now_ms, places=places, requests=requests, overrides=overrides, is_meant=is_meant))


def process_age_s(pid: int) -> float:
    """For how long a process lives, by the kernel's clock, which nobody sets; 0 when it is gone."""
    try:
        started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, uptime_s - started / os.sysconf("SC_CLK_TCK"))


def _overrides(link: Link, host: str) -> dict[str, Override]:
    try:
        return autoscale.overrides(link, host)
    except ResponseError:  # a key that is garbled must not cost the look the rest; autoscale's own look tells it
        return {}


def _place(
    number: int, program: Program, state: dict[str, str], given: Assignment | None, age_s: float | None, is_ready: bool
) -> Place:
    is_current = program.pid > 0 and state.get("pid") == str(program.pid)
    if not is_current:
        state = {}  # said by a life before this one
    device = [
        size for name in ("device_bytes", "device_baseline_bytes") if (size := whole(state.get(name))) is not None
    ]
    return Place(
        number=number,
        state=program.state,
        pid=program.pid,
        up_s=process_age_s(program.pid) if program.pid else 0.0,
        assignment=given,
        beat_age_s=age_s,
        is_current=is_current,
        is_ready=is_current and is_ready and state.get("state") == "ready",
        word=state.get("state", ""),
        silent_s=(real(state.get("silent_ms")) or 0.0) / 1000,
        host_bytes=max(whole(state.get(name)) or 0 for name in ("host_bytes", "host_baseline_bytes")),
        device_bytes=max(device) if device else None,
        held=whole(state.get("held")),
        jobs=whole(state.get("jobs")) or 0,
        rows=whole(state.get("rows")) or 0,
        load_s=real(state.get("load_s")),
    )


def _measured(seen: Seen) -> Seen:
    """With the free memory, where a request waits for an answer."""
    asked: list[Request] = [request for request in seen.requests.values() if request.phase == "asked"]
    if not asked:
        return seen
    wanted = {place.assignment.device for place in seen.places.values() if place.assignment} - {"cpu"}
    return msgspec.structs.replace(
        seen,
        free_host_bytes=devices.free_host_bytes(),
        free_device_bytes={device: devices.free_device_bytes(device) for device in wanted},
    )
