"""Slots as `status` shows them: what each says of itself, what supervisord and the log of exits say of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker import roster
from broker.figures import real, whole
from broker.look import Look
from broker.settings import Settings
from operators.snapshot import SlotStatus
from operators.supervised import RUNNING, Program
from operators.wishes import passing

FRESH_S = 5  # a program that has run for less may not have said a word yet


def slots(seen: Look, settings: Settings, programs: Mapping[int, Program]) -> tuple[SlotStatus, ...]:
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
