"""What this host wants, as it stands in Redis: assignments and counts. Written by `up`, changed by `scale`, taken back by `down`.

Starts and stops nothing: who changes these words does that beside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from broker import autoscale, overlap, roster
from broker.arrangement import arrange
from broker.connection import LOST, Link
from broker.errors import RedisUnavailable
from broker.overlap import Request
from broker.roster import Assignment
from broker.settings import Settings
from operators import placement
from operators.plan import plan
from operators.reach import reach, reached


def publish(settings: Settings, link: Link) -> dict[int, Assignment]:
    """Writes assignments and wanted as pool.toml has them, and takes back what an earlier pool of this host left."""
    host, planned = settings.host, placement.place(settings, plan(settings))
    overlap.clear(link, host)
    autoscale.clear(link, host)
    counts = {name: chosen.slots for name, chosen in settings.models.items() if chosen.slots}
    arrange(link, host, wanted=_none_wanted(settings, link) | counts, assigned=planned, is_anew=True)
    return planned


def withdraw(settings: Settings) -> int:
    """This host wants no slots any more; the number of jobs left in the queues. Redis may be away: then 0."""
    try:
        link = reach(settings)
        host, queued = settings.host, 0
        overlap.clear(link, host)
        arrange(link, host, wanted=_none_wanted(settings, link), assigned={}, is_anew=True)
        for model in {*roster.models(link), *settings.models}:
            replies: list[Any] = link.call_all(roster.depth_commands(model))
            queued += sum(count for count in replies[:4] if isinstance(count, int))
        link.close()
    except (*LOST, RedisUnavailable):
        return 0
    return queued


def _none_wanted(settings: Settings, link: Link) -> dict[str, int]:
    """0 for each model of which this host wants slots."""
    models = {*roster.models(link), *settings.models}
    return {model: 0 for model in sorted(models) if roster.wanted(link, model).get(settings.host)}


def placed(settings: Settings, link: Link, wished: Mapping[int, Assignment]) -> dict[int, Assignment]:
    """The assignments, `auto` settled on GPUs beside what other slots of this host have. Raises ConfigError where none has room."""
    held = {number: one for number, one in roster.assignments(link, settings.host).items() if number not in wished}
    words = {number: roster.slot_name(settings.host, number) for number in held}
    states = roster.states(link, list(words.values()))
    told = {number: states[name] for number, name in words.items()}
    return placement.place(settings, wished, held=held, told=told)


def assigned(settings: Settings) -> tuple[int, ...]:
    """Numbers of the slots that shall run on this host."""
    with reached(settings) as link:
        return tuple(roster.assignments(link, settings.host))


def passing(requests: dict[int, Request]) -> frozenset[int]:
    """Slots that stand beside the one that is counted: spares that have not taken over, and those whose spare has."""
    spares = {one.spare for one in requests.values() if one.phase in ("loading", "refused") and one.spare >= 0}
    return frozenset(spares | {number for number, one in requests.items() if one.phase == "swapping"})


def per_model(assignments: dict[int, Assignment]) -> Counter[str]:
    """How many slots each model has."""
    return Counter(given.model for given in assignments.values())
