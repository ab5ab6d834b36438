"""What is wrong in a pool, worst first, each with the command that mends it. Pure: what it is told is what it knows."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from broker.paused import told
from broker.settings import Settings
from operators.reach import client_command
from operators.reconcile import silent_limit_s
from operators.snapshot import ModelStatus, Problem, RedisStatus, SlotStatus
from operators.supervised import RUNNING
from operators.table import age, clean, count_of

NEARLY_FULL = 0.8
ON_THE_WAY = frozenset({"", "starting", "loading", "retiring", "exiting", "failing", "backing off"})
SILENT_S = 5.0  # a slot beats each second, unless slot.beat_s says otherwise


def find_problems(
    server: RedisStatus, models: tuple[ModelStatus, ...], slots: tuple[SlotStatus, ...], settings: Settings, *,
    has_agent: bool = True, assigned: Mapping[str, int] | None = None, now_ms: int = 0, asleep: Collection[str] = (),
) -> list[Problem]:  # fmt: skip
    """What an operator should know, worst first; pure. `assigned`: slots per model on this host, None where it is down.

    `now_ms` is Redis' time, 0 where it is not known; `asleep` are models that autoscaling may leave without a slot.
    """
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
        coming = [slot for slot in slots if slot.model == model.name and _is_coming(slot)]
        if model.jobs and not model.ready and not coming:
            wish = f"penstock scale {model.name} {max(1, model.wanted)}" if not model.wanted else "penstock up"
            waits = "job waits" if model.jobs == 1 else "jobs wait"
            add(1, f"{model.name}: {model.jobs} {waits} and no slot is ready", wish)
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
                f"penstock resume {model.name}" if model.paused else f"penstock scale {model.name} {more}",
            )
        if model.paused:
            waiting = sum(count for lane, count in model.depth.items() if lane in model.paused)
            since_ms = min(one.at_ms for one in model.paused.values())
            ago = f" {age(now_ms - since_ms)} ago" if 0 < since_ms <= now_ms else ""
            waits = f", {count_of(waiting, 'job')} in its queue" if waiting else ""
            only = f" --lane {next(iter(model.paused))}" if len(model.paused) == 1 else ""
            add(3, f"{model.name}: {clean(told(model.paused))}{ago}{waits}", f"penstock resume {model.name}{only}")
        if model.dead:
            were = "job was" if model.dead == 1 else "jobs were"
            add(4, f"{model.name}: {model.dead} {were} given up", f"penstock dead ls {model.name}")
    for name, chosen in settings.models.items():
        if assigned is not None and chosen.slots and not assigned.get(name) and name not in asleep:
            wish = f"penstock scale {name} {chosen.slots}"
            add(3, f"{name}: the settings in force want {count_of(chosen.slots, 'slot')}, 0 are assigned", wish)
    for slot in slots:
        if slot.state in ("failing", "backing off"):
            reason = slot.reason or "no reason given"
            # Another exit than the reason names is an older one: the last could not tell Redis.
            is_of_it = not slot.reason or f"(last: {slot.last_exit})" in reason
            if is_of_it and slot.last_exit_detail and slot.last_exit_detail not in reason:  # what a back-off is for
                reason = f"{slot.reason or slot.last_exit}: {slot.last_exit_detail}"
            if slot.state == "backing off":
                reason += "; it tries again by itself"
            add(
                1,
                f"slot {slot.number} ({slot.model}) {slot.state}: {reason}",
                f"penstock doctor; see {_log(settings, slot)}",
            )
        elif slot.silent_s is not None and slot.silent_s >= max(SILENT_S, 3 * settings.slot.beat_s) and _runs(slot):
            text = f"slot {slot.number} ({slot.model}, pid {slot.pid}) is silent for {slot.silent_s:.0f} s"
            if has_agent:
                add(3, f"{text}; the agent kills it at {silent_limit_s(settings.slot):g} s", "")
            else:
                add(3, text, f"kill -9 {slot.pid}; supervisord starts it again")
        elif slot.state == "silent":
            said = f" (supervisord: {slot.program})" if slot.program else ""
            add(
                3,
                f"slot {slot.number} ({slot.model}) is assigned and says nothing{said}",
                f"see {_log(settings, slot)}" if _runs(slot) else f"penstock up; see {_log(settings, slot)}",
            )
    return [problem for _, problem in sorted(worst, key=lambda item: item[0])]


def _is_coming(slot: SlotStatus) -> bool:
    """It will be ready without anybody's doing; one that runs and hangs is killed by the agent and comes back."""
    return not slot.is_ready and (slot.state in ON_THE_WAY or _runs(slot))


def _runs(slot: SlotStatus) -> bool:
    return slot.program in RUNNING


def _log(settings: Settings, slot: SlotStatus) -> str:
    return str(settings.var / "log" / f"slot_{slot.number:02d}.log")
