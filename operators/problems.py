"""What is wrong in a pool, worst first, each with the command that mends it. Pure: what it is told is what it knows."""

from __future__ import annotations

from broker.settings import Settings
from operators.reach import client_command
from operators.snapshot import ModelStatus, Problem, RedisStatus, SlotStatus

NEARLY_FULL = 0.8
STARTING_STATES = frozenset({"", "starting", "loading"})


def find_problems(
    server: RedisStatus, models: tuple[ModelStatus, ...], slots: tuple[SlotStatus, ...], settings: Settings
) -> list[Problem]:
    """What an operator should know, worst first; pure."""
    worst: list[tuple[int, Problem]] = []

    def add(rank: int, text: str, mend: str) -> None:
        worst.append((rank, Problem("error" if rank < 3 else "warning", text, mend)))

    if server.policy != "noeviction":
        add(
            0, f"Redis may drop jobs: maxmemory-policy is {server.policy or 'unknown'}",
            f"{client_command(settings)} CONFIG SET maxmemory-policy noeviction",
        )  # fmt: skip
    if server.max_bytes and server.used_bytes > NEARLY_FULL * server.max_bytes:
        share = server.used_bytes / server.max_bytes
        mend = "raise redis.max_memory_mb, then `penstock down` and `penstock up`"
        mend = mend if settings.is_embedded else "raise maxmemory"
        add(2, f"Redis is {share:.0%} full; at 100 % it refuses submits", mend)
    for model in models:
        coming = [slot for slot in slots if slot.model == model.name and slot.state in STARTING_STATES]
        if model.jobs and not model.ready and not coming:
            wish = f"penstock scale {model.name} {max(1, model.wanted)}" if not model.wanted else "penstock up"
            add(1, f"{model.name}: {model.jobs} jobs wait and no slot is ready", wish)
        elif model.ready < model.wanted:
            on_the_way = f", {len(coming)} on the way" if coming else ""
            add(
                3 if model.ready else 2, f"{model.name}: {model.ready} of {model.wanted} wanted slots are ready{on_the_way}",
                "penstock status" if coming else "penstock up",
            )  # fmt: skip
        full = max(
            model.jobs / model.max_jobs if model.max_jobs else 0.0,
            (model.bytes + model.stored_bytes) / model.max_bytes if model.max_bytes else 0.0,
        )
        if full >= NEARLY_FULL:
            more = min(settings.pool.most_slots, model.wanted + 1)
            add(
                2,
                f"{model.name}: the queue is {full:.0%} full; at 100 % submits are refused",
                f"penstock scale {model.name} {more}",
            )
        if model.dead:
            add(4, f"{model.name}: {model.dead} jobs were given up", f"penstock dead ls {model.name}")
    for slot in slots:
        if slot.state in ("failing", "backing off"):
            reason = slot.reason or "no reason given"
            if slot.last_exit_detail and slot.last_exit_detail not in reason:  # what a back-off is for
                reason = f"{slot.reason or slot.last_exit}: {slot.last_exit_detail}"
            add(
                1,
                f"slot {slot.number} ({slot.model}) {slot.state}: {reason}",
                f"penstock doctor; see {_log(settings, slot)}",
            )
        elif slot.state == "silent":
            add(
                3,
                f"slot {slot.number} ({slot.model}) is assigned and says nothing",
                f"penstock up; see {_log(settings, slot)}",
            )
    return [problem for _, problem in sorted(worst, key=lambda item: item[0])]


def _log(settings: Settings, slot: SlotStatus) -> str:
    return str(settings.var / "log" / f"slot_{slot.number:02d}.log")
