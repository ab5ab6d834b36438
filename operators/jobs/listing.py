"""Which jobs of one model wait, are claimed, are delayed or dead: a bounded number of each, without their payloads."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Literal

import msgspec

from broker import keys, roster
from broker.connection import Link
from broker.errors import ConfigError, DecodeError
from broker.messages import LANES, Job
from broker.settings import unknown
from broker.traces import Entry, Held, Traces, read_job

State = Literal["claimed", "waiting", "delayed", "dead"]
STATES: tuple[State, ...] = ("claimed", "waiting", "delayed", "dead")
AT_ONCE = 64  # entries fetched in one round trip


class Listed(msgspec.Struct, frozen=True):
    """One job. `at_ms` is when it came to its lane, when it is due, or when it died; '' and None are not known."""

    id: str
    state: State
    lane: str
    at_ms: int
    rows: int | None = None
    size: int | None = None
    attempt: int | None = None
    crash_marks: int = 0
    slot: str = ""
    deadline_ms: int | None = None
    reason: str = ""


def listed(
    link: Link, model: str, state: State | None = None, *, limit: int, models: Iterable[str] = ()
) -> tuple[int, list[Listed]]:
    """Redis' time, and up to `limit` jobs of a state, or of all but the dead; those first that are served first.

    Raises ConfigError for a model that is neither published nor among `models`.
    """
    names = {*roster.models(link), *models}
    if model not in names:
        raise ConfigError(unknown("model", model, names))
    traces = Traces(link, model)
    found: list[Listed] = []
    for one in STATES[:3] if state is None else (state,):
        if limit > len(found):
            found += _OF[one](traces, limit - len(found))
    return roster.now_ms(link), found


def _claimed(traces: Traces, limit: int) -> list[Listed]:
    found: list[Listed] = []
    for lane in LANES:
        leases = [one for one in traces.leases(lane, limit) if one[1].consumer != keys.RETURNED]
        found += _fetched(traces, lane, leases[: limit - len(found)], "claimed")
    return found


def _waiting(traces: Traces, limit: int) -> list[Listed]:
    """Those given back, which are claimed first, and behind the last that was given out."""
    found: list[Listed] = []
    for lane in LANES:
        room = limit - len(found)
        if room <= 0:
            break
        found += _fetched(traces, lane, traces.leases(lane, room, consumer=keys.RETURNED), "waiting")
        fresh = (one for page in traces.lane(lane, after=traces.delivered(lane)) for one in page)
        found += [
            _listed(traces.model, lane, one, None, "waiting") for one in islice(fresh, max(0, limit - len(found)))
        ]
    return found[:limit]


def _delayed(traces: Traces, limit: int) -> list[Listed]:
    found = []
    for due_ms, job in traces.delayed(limit):
        if job is None:
            found.append(Listed("(garbled)", "delayed", "", due_ms))
        else:
            found.append(_described(traces.model, "delayed", LANES[job.lane], due_ms, job))
    return found


def _dead(traces: Traces, limit: int) -> list[Listed]:
    letters = (one for page in traces.letters() for one, _ in page)
    return [
        Listed(
            one.id, "dead", one.lane, one.died_ms, size=one.size, attempt=one.attempts, crash_marks=max(0, one.deliveries - 1),
            reason=one.reason,
        )
        for one in islice(letters, limit)
    ]  # fmt: skip


_OF = {"claimed": _claimed, "waiting": _waiting, "delayed": _delayed, "dead": _dead}


def _fetched(traces: Traces, lane: str, leases: list[tuple[bytes, Held]], state: State) -> list[Listed]:
    found = []
    for at in range(0, len(leases), AT_ONCE):
        some = leases[at : at + AT_ONCE]
        entries = traces.entries(lane, [entry for entry, _ in some])
        for one, (_, held) in zip(entries, some, strict=True):
            if one is not None:  # else it ended meanwhile
                found.append(_listed(traces.model, lane, one, held, state))
    return found


def _listed(model: str, lane: str, one: Entry, held: Held | None, state: State) -> Listed:
    entry, fields = one
    at_ms = int(entry.partition(b"-")[0])
    try:
        job = read_job(entry, fields, lane, held)
    except DecodeError:
        return Listed("(garbled)", state, lane, at_ms)
    slot = held.consumer.rpartition(".")[0] if held and state == "claimed" else ""
    return _described(model, state, lane, at_ms, job, slot=slot)


def _described(model: str, state: State, lane: str, at_ms: int, job: Job, *, slot: str = "") -> Listed:
    return Listed(
        f"{model}:{job.id}", state, lane, at_ms, rows=job.rows, size=job.size, attempt=job.attempt,
        crash_marks=max(0, job.deliveries - 1), slot=slot, deadline_ms=job.deadline_ms or None,
    )  # fmt: skip
