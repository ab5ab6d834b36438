"""What `penstock top` shows: two looks at the pool as rates, and slots worst first. Pure; how it is drawn is `picture` and `plain`."""

from __future__ import annotations

from collections import Counter

import msgspec

from operators.snapshot import ModelStatus, Problem, SlotStatus, Snapshot


class ModelRow(msgspec.Struct, frozen=True):
    """One model. `full` is the share of its limit of jobs or bytes, whichever is nearer."""

    name: str
    ready: int
    wanted: int
    depth: dict[str, int]
    delayed: int
    claimed: int
    dead: int
    oldest_age_ms: int | None
    jobs_per_s: float
    full: float
    paused: tuple[str, ...] = ()  # lanes


class SlotRow(msgspec.Struct, frozen=True):
    """One slot. `rows_per_batch` and `fill` are of the batches since the look before, or of its life where there were none."""

    name: str
    number: int
    model: str
    state: str
    is_ready: bool
    reason: str
    jobs_per_s: float
    rows_per_batch: float | None
    fill: float | None  # of the model's max_rows
    p50_ms: float | None
    p99_ms: float | None
    host_bytes: int | None
    host_growth_bytes: int | None  # above the baseline behind warm-up
    device_bytes: int | None
    device_growth_bytes: int | None
    up_ms: int | None
    restarts: dict[str, int]


class Frame(msgspec.Struct, frozen=True):
    """The pool at one moment."""

    at_ms: int
    host: str
    is_up: bool
    redis: str
    used_bytes: int | None
    max_bytes: int
    jobs_per_s: float
    problems: tuple[Problem, ...]
    models: tuple[ModelRow, ...]
    slots: tuple[SlotRow, ...]  # those that are not ready first
    restarts: dict[str, int]  # by reason, over all slots, the most frequent first


def make(now: Snapshot, before: Snapshot | None = None) -> Frame:
    """Rates are of the time between the two looks; without one before, as slots told them themselves."""
    passed_s = (now.at_ms - before.at_ms) / 1000 if before is not None else 0.0
    models = {one.name: one for one in before.models} if before is not None and passed_s > 0 else {}
    slots = {one.name: one for one in before.slots} if before is not None and passed_s > 0 else {}
    limits = {one.name: one.max_rows for one in now.models}
    rows = tuple(_model(one, models.get(one.name), passed_s) for one in now.models)
    restarts: Counter[str] = Counter()
    for slot in now.slots:
        restarts.update(slot.restarts)
    return Frame(
        at_ms=now.at_ms,
        host=now.host,
        is_up=now.is_up,
        redis=f"Redis {now.redis.version}" if now.redis is not None else "no Redis",
        used_bytes=now.redis.used_bytes if now.redis is not None else None,
        max_bytes=now.redis.max_bytes if now.redis is not None else 0,
        jobs_per_s=sum(row.jobs_per_s for row in rows),
        problems=now.problems,
        models=rows,
        slots=tuple(
            sorted(
                (_slot(one, slots.get(one.name), passed_s, limits.get(one.model, 0), now.at_ms) for one in now.slots),
                key=lambda row: row.is_ready,
            )
        ),
        restarts=dict(restarts.most_common()),
    )


def _model(now: ModelStatus, before: ModelStatus | None, passed_s: float) -> ModelRow:
    rate = now.jobs_per_s
    if before is not None:
        rate = max(0, now.ended["done"] - before.ended["done"]) / passed_s
    full = max(
        now.jobs / now.max_jobs if now.max_jobs else 0.0,
        (now.bytes + now.stored_bytes) / now.max_bytes if now.max_bytes else 0.0,
    )
    return ModelRow(
        now.name,
        now.ready,
        now.wanted,
        now.depth,
        now.delayed,
        now.claimed,
        now.dead,
        now.oldest_age_ms,
        rate,
        full,
        tuple(now.paused),
    )


def _slot(now: SlotStatus, before: SlotStatus | None, passed_s: float, max_rows: int, at_ms: int) -> SlotRow:
    is_same = before is not None and before.pid == now.pid and before.jobs <= now.jobs
    batches = now.batches - before.batches if before is not None and is_same else 0
    if before is not None and batches > 0:
        per_batch: float | None = (now.rows - before.rows) / batches
    else:
        per_batch = now.mean_batch or None
    return SlotRow(
        name=now.name,
        number=now.number,
        model=now.model,
        state=now.state,
        is_ready=now.is_ready,
        reason=now.reason or (now.last_exit if not now.is_ready else ""),
        jobs_per_s=(now.jobs - before.jobs) / passed_s if before is not None and is_same else 0.0,
        rows_per_batch=per_batch,
        fill=min(1.0, per_batch / max_rows) if per_batch is not None and max_rows else None,
        p50_ms=now.p50_ms or None,
        p99_ms=now.p99_ms or None,
        host_bytes=now.host_bytes,
        host_growth_bytes=_growth(now.host_bytes, now.host_baseline_bytes),
        device_bytes=now.device_bytes,
        device_growth_bytes=_growth(now.device_bytes, now.device_baseline_bytes),
        up_ms=at_ms - now.since_ms if now.since_ms else None,
        restarts=now.restarts,
    )


def _growth(now: int | None, baseline: int | None) -> int | None:
    return now - baseline if now is not None and baseline else None
