"""Which slots of this host a command is about: all, those of a model, or one. Reads only."""

from __future__ import annotations

import msgspec

from broker import overlap, roster
from broker.connection import Link
from broker.errors import ConfigError
from broker.settings import Settings, unknown
from operators.supervisor import Supervisor
from operators.table import count_of
from operators.wishes import passing


class Target(msgspec.Struct, frozen=True):
    """One slot as it was when the command began. `pid` is 0 where supervisord runs none; ready is said by that very pid."""

    number: int
    model: str
    pid: int
    is_ready: bool


def choose(
    settings: Settings, link: Link, supervisor: Supervisor, *, model: str = "", slot: int | None = None
) -> list[Target]:
    """In order of their numbers, without spares that pass. Raises ConfigError where there is none, or the slot is another model's."""
    host = settings.host
    beside = passing(overlap.requests(link, host))
    given = {number: one.model for number, one in roster.assignments(link, host).items() if number not in beside}
    served = sorted(set(given.values()))
    if model and model not in served:
        if model not in settings.models:
            raise ConfigError(unknown("model", model, {*served, *settings.models}))
        raise ConfigError(f"{model} has no slot on this host; `penstock scale {model} 1` gives it one")
    if slot is not None and slot not in given:
        listed = ", ".join(f"{number} ({name})" for number, name in given.items())
        raise ConfigError(f"slot {slot} serves nothing on this host; those that do: {listed or 'none'}")
    if slot is not None and model and given[slot] != model:
        raise ConfigError(
            f"slot {slot} serves {given[slot]}, not {model}; leave the model out, or see `penstock status`"
        )
    if not given:
        raise ConfigError("no slot serves anything on this host; `penstock scale MODEL N` gives a model slots")
    programs = supervisor.slots()
    states = roster.states(link, [roster.slot_name(host, number) for number in given])
    ready = {name for one in served for name in roster.ready(link, one)}
    found = []
    for number, name in given.items():
        if (model and name != model) or (slot is not None and number != slot):
            continue
        words = roster.slot_name(host, number)
        pid = programs[number].pid if number in programs else 0
        is_ready = bool(pid) and words in ready and states[words].get("pid") == str(pid)
        found.append(Target(number, name, pid, is_ready))
    return found


def told(targets: list[Target]) -> str:
    """`3 slots (0, 1 of mlp; 2 of bert)`."""
    by_model: dict[str, list[str]] = {}
    for one in targets:
        by_model.setdefault(one.model, []).append(str(one.number))
    listed = "; ".join(f"{', '.join(numbers)} of {name}" for name, numbers in by_model.items())
    return f"{count_of(len(targets), 'slot')} ({listed})"
