"""From what the agent sees of its host and what Redis says of a model to the figures that are decided by. Pure."""

from __future__ import annotations

from collections import Counter

from broker.demand import Demand
from broker.settings import Settings
from operators.autoscale.words import Sight
from operators.places import Place, Seen
from operators.swap import CANNOT_LOAD
from operators.wishes import passing

START_S = 1.0  # of a process, before it loads


def counted(seen: Seen, model: str) -> list[Place]:
    """The model's slots on this host, spares of retiring ones left out."""
    beside = passing(seen.requests)
    return [place for number, place in sorted(seen.places.items())
            if place.assignment is not None and place.assignment.model == model and number not in beside]  # fmt: skip


def sight(
    settings: Settings,
    model: str,
    seen: Seen,
    demand: Demand,
    *,
    at_s: float,
    rows_per_s: float | None,
    load_s: float | None,
) -> Sight:
    """`rows_per_s` by T; `load_s` of the slots before these, where none of them is ready."""
    own = counted(seen, model)
    ready = [place for place in own if place.is_ready]
    failing = [place for place in own if place.is_current and place.word in CANNOT_LOAD]
    ours = f"{settings.host}/"
    elsewhere = Counter(name.rpartition("/")[0] for name in demand.ready if not name.startswith(ours))
    cannot = Counter(name.rpartition("/")[0] for name in demand.failing)
    coming = sum(
        max(0, count - elsewhere[host] - cannot[host]) for host, count in demand.wanted.items() if host != settings.host
    )
    return Sight(
        at_s=at_s,
        jobs=demand.jobs,
        unclaimed=max(0, demand.jobs - demand.claimed),
        oldest_s=(demand.oldest_ms or 0) / 1000,
        ended=demand.ended,
        slots=len(own),
        ready=len(ready),
        loading=len(own) - len(ready) - len(failing),
        failing=len(failing),
        idle=idle(seen, model),
        elsewhere=sum(elsewhere.values()),
        coming_elsewhere=coming,
        table_per_s=rows_per_s / rows_per_job(ready) if rows_per_s else None,
        load_s=load_of(ready, load_s),
        places=settings.pool.most_slots - (all_counted(seen) - len(own)),
        paused=demand.paused,
        is_paused=demand.is_paused,
    )


def load_of(ready: list[Place], before: float | None) -> float | None:
    """Seconds from a slot's start until it is ready, by what those that are ready say."""
    told = [place.load_s for place in ready if place.load_s]
    return max(told) + START_S if told else before


def rows_per_job(ready: list[Place]) -> float:
    """What the slots' lives saw; 1 before any."""
    jobs, rows = sum(place.jobs for place in ready), sum(place.rows for place in ready)
    return rows / jobs if jobs and rows else 1.0


def idle(seen: Seen, model: str) -> tuple[int, ...]:
    """Slots that hold no job, by their own words, and wait for no spare: of the device that has most of them, the highest first."""
    ready = [(place, place.assignment.device) for place in counted(seen, model) if place.is_ready and place.assignment]
    on = Counter(device for _, device in ready)
    found = [
        (on[device], place.number) for place, device in ready if place.held == 0 and place.number not in seen.requests
    ]
    return tuple(number for _, number in sorted(found, reverse=True))


def all_counted(seen: Seen) -> int:
    """Slots of all models on this host, spares of retiring ones left out."""
    beside = passing(seen.requests)
    return sum(place.assignment is not None and number not in beside for number, place in seen.places.items())
