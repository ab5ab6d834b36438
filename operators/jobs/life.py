"""The life of one job as `penstock jobs show` tells it: structs only. Never its payload: names, states and times."""

from __future__ import annotations

import msgspec


class Timings(msgspec.Struct, frozen=True):
    """Milliseconds it spent in Redis, in the slot before its forward, in the forward, and in all."""

    queue_ms: float
    wait_ms: float
    forward_ms: float
    total_ms: float


class Step(msgspec.Struct, frozen=True):
    """Where the same job stood under another id. `state` is unknown where nothing of it is left."""

    id: str
    state: str
    reason: str = ""
    error: str = ""


class Life(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that is known; None is not known. Times in Redis' ms; `now_ms` is when it was looked at."""

    id: str
    now_ms: int
    state: str  # waiting, claimed, delayed, done, failed, dead, expired, cancelled, unknown; ended: how, this user may not read
    note: str = ""  # what else is to be said of the state
    lane: str | None = None
    ahead: int | None = None  # jobs before it in its lane, claimed ones among them
    kind: str | None = None
    rows: int | None = None
    size: int | None = None  # bytes it takes up
    submitted_ms: int | None = None
    attempt: int | None = None
    retries: int | None = None  # allowed
    crash_marks: int | None = None  # engines or slots that died under it
    slot: str | None = None
    slot_state: str | None = None  # '' where it says nothing
    lease_idle_ms: int | None = None  # since the slot renewed its lease
    due_ms: int | None = None
    is_retry: bool = False
    deadline_ms: int | None = None
    reason: str | None = None
    error: str | None = None
    died_ms: int | None = None
    version: str | None = None
    timings: Timings | None = None
    is_stored: bool | None = None
    result_ttl_s: int | None = None
    expires_ms: int | None = None  # when the outcome goes
    replay_of: Step | None = None
    replays: tuple[Step, ...] = ()  # ids it was replayed as, where they are found
