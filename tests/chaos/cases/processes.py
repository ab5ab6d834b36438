"""Slots and engines that are killed, stopped, retired and scaled under load."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass
from statistics import quantiles

from broker import keys, roster
from broker.messages import LANES
from operators import pool
from operators.supervisor import is_alive
from tests.chaos import fake, slot
from tests.chaos.case import Case, Seen, judged
from tests.chaos.stage import LEASE_S, READY_WITHIN_S, Stage, staged
from tests.chaos.traffic import Traffic

STOP_S = 3 * LEASE_S
ORPHANS_GONE_S = 5.0
STORM_JOBS_PER_S = 60


@dataclass(frozen=True)
class Kill:
    """One process killed: of which slot, in which life, and when (monotonic)."""

    name: str
    incarnation: str
    victim: str  # slot or engine
    at: float
    is_alone: bool  # all other slots were ready


def kills(count: int) -> Seen:
    """kill -9 of random slots and engines: first as they come, while others are still on their way back, then one by one.

    A recovery is the time until the slot is ready again, less its load time; its p99 is that of those killed one by one.
    """
    seen = Seen()
    alone: dict[str, list[float]] = {"slot": [], "engine": []}
    with staged(slots=3) as stage, judged(stage, seen) as hand_in:
        under_way: list[Kill] = []
        with Traffic(stage.url, per_s=400) as traffic:
            while seen.faults < count or under_way:
                states = stage.ready()
                is_storm = seen.faults < count // 2
                for kill in list(under_way):
                    state = states.get(kill.name)
                    if state is not None and state["incarnation"] != kill.incarnation:
                        under_way.remove(kill)
                        recovery_s = time.monotonic() - kill.at - float(state["load_s"])
                        seen.recovered(recovery_s)
                        if kill.is_alone:
                            alone[kill.victim].append(recovery_s)
                may_kill = seen.faults < count and (is_storm or not under_way)
                victim = _pick(states, {kill.name for kill in under_way}) if may_kill else ""
                if victim:
                    under_way.append(
                        _kill(victim, states[victim], is_alone=not is_storm and len(states) == stage.slots)
                    )
                    seen.faults += 1
                if under_way and time.monotonic() - under_way[0].at > READY_WITHIN_S:
                    raise RuntimeError(f"{under_way[0].name} did not come back; logs in {stage.folder}")
                time.sleep(0.01)
            hand_in(traffic.finish())
    seen.expect(seen.tally.dead == 0, f"{seen.tally.dead} jobs were given up, and none was to blame")
    for victim, seconds in alone.items():
        seen.note(**{f"{victim}s_killed_alone": len(seconds), f"{victim}_recovery_p99_s": _p99(seconds)})
    return seen


def _pick(states: dict[str, dict[str, str]], away: set[str]) -> str:
    """A ready slot that has settled something (it comes back without a back-off), while another stays."""
    victims = [name for name, state in states.items() if int(state["jobs"]) and name not in away]
    return random.choice(victims) if len(victims) > 1 else ""


def _kill(name: str, state: dict[str, str], *, is_alone: bool) -> Kill:
    victim = random.choice(("slot", "engine"))
    os.kill(int(state["pid" if victim == "slot" else "engine_pid"]), signal.SIGKILL)
    return Kill(name, state["incarnation"], victim, time.monotonic(), is_alone)


def _p99(seconds: list[float]) -> float | None:
    if len(seconds) < 2:
        return round(seconds[0], 3) if seconds else None
    return round(quantiles(seconds, n=100, method="inclusive")[98], 3)


def fault_points(count: int) -> Seen:
    """A slot dies at each point of its loop, `count` times."""
    seen = Seen()
    with staged() as stage, judged(stage, seen) as hand_in, Traffic(stage.url, per_s=300) as traffic:
        for point in slot.POINTS * count:
            lives = {name: state["incarnation"] for name, state in _await_worked(stage, 2).items()}
            order = stage.faults / point
            order.touch()
            began = time.monotonic()
            while order.exists():
                if time.monotonic() - began > READY_WITHIN_S:
                    raise RuntimeError(f"no slot came to {point}; logs in {stage.folder}")
                time.sleep(0.002)
            began = time.monotonic()
            load_s = _await_new_life(stage, lives)
            seen.faults += 1
            seen.recovered(time.monotonic() - began - load_s)
        hand_in(traffic.finish())
    seen.expect(seen.tally.dead == 0, f"{seen.tally.dead} jobs were given up, and none was to blame")
    return seen


def _await_worked(stage: Stage, count: int) -> dict[str, dict[str, str]]:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        worked = {name: state for name, state in stage.ready().items() if int(state["jobs"])}
        if len(worked) >= count:
            return worked
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {len(worked)} slots have settled anything; logs in {stage.folder}")
        time.sleep(0.01)


def _await_new_life(stage: Stage, lives: dict[str, str]) -> float:
    """Until one of these slots is ready in another life; how long it loaded."""
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        for name, state in stage.ready().items():
            if lives.get(name) not in (None, state["incarnation"]):
                return float(state["load_s"])
        if time.monotonic() > deadline:
            raise RuntimeError(f"the slot that was killed did not come back; logs in {stage.folder}")
        time.sleep(0.01)


def stopped_slots(count: int) -> Seen:
    """SIGSTOP for three lease times, then SIGCONT; every second of several stays stopped until the agent kills it."""
    seen = Seen()
    killed_by_agent = 0
    with staged() as stage, judged(stage, seen) as hand_in, Traffic(stage.url, per_s=200) as traffic:
        for number in range(count):
            name, state = random.choice(list(_await_worked(stage, 2).items()))
            pid = int(state["pid"])
            os.kill(pid, signal.SIGSTOP)
            began = time.monotonic()
            seen.faults += 1
            if number % 2:
                load_s = stage.wait_replaced(name, state["incarnation"])
                seen.recovered(time.monotonic() - began - load_s)
                killed_by_agent += 1
                continue
            time.sleep(STOP_S)
            os.kill(pid, signal.SIGCONT)
            stage.wait_ready(2)
        hand_in(traffic.finish())
    seen.note(killed_by_agent=killed_by_agent)
    return seen


def retirement_storm(jobs: int) -> Seen:
    """Four slots retire every 50 jobs; jobs come no faster than slots return."""
    seen = Seen()
    retire = {"max_jobs": 50, "jitter": 0.1, "min_life_s": 0.0, "min_life_loads": 0.0}
    least = 4
    with staged(slots=4, retire=retire) as stage, judged(stage, seen) as hand_in:
        with Traffic(stage.url, per_s=STORM_JOBS_PER_S, count=jobs, chunk=4) as traffic:
            while traffic.is_feeding:
                least = min(least, len(roster.ready(stage.link, fake.MODEL)))
                time.sleep(0.02)
            hand_in(traffic.finish(stop=False))
        wanted = 0.25 * jobs / 50  # one after the other: on a busy machine the last are due still when the feeding ends
        deadline = time.monotonic() + 60.0
        while _retirements(stage) < wanted and time.monotonic() < deadline:
            time.sleep(0.1)
        seen.faults = _retirements(stage)
    seen.expect(least > 0, "there was a moment without a ready slot")
    seen.expect(seen.faults >= wanted, f"only {seen.faults} retirements over {jobs} jobs")
    seen.note(retirements=seen.faults, least_ready=least)
    return seen


def _retirements(stage: Stage) -> int:
    return sum(count for field, count in roster.restarts(stage.link).items() if field.rpartition(":")[2] == "max_jobs")


def scaling(rounds: int) -> Seen:
    """1 -> 4 -> 2 slots under load; no job fails, and a slot that stays is not restarted."""
    seen = Seen()
    with staged(slots=1, most_slots=4) as stage, judged(stage, seen) as hand_in:
        with Traffic(stage.url, per_s=300) as traffic:
            for _ in range(rounds):
                first = stage.wait_ready(1)
                pool.scale(stage.settings, fake.MODEL, 4)
                stage.wait_ready(4)
                pool.scale(stage.settings, fake.MODEL, 2)
                left = stage.wait_ready(2)
                name, state = next(iter(first.items()))
                seen.expect(left.get(name, {}).get("pid") == state["pid"], f"{name} was restarted by scaling")
                seen.faults += 2
                pool.scale(stage.settings, fake.MODEL, 1)
            hand_in(traffic.finish())
    seen.expect(seen.tally.done == seen.tally.submitted, "scaling cost a job its answer")
    return seen


def supervisord_killed(count: int) -> Seen:
    """kill -9 of supervisord: no engine outlives it by 5 s, each slot says why it went and returns what it held unmarked, and the
    next `up` goes on with what waits."""
    seen = Seen()
    gone_s = 0.0
    with (
        staged(runs={"workers": 1}) as stage,
        judged(stage, seen) as hand_in,
        Traffic(stage.url, per_s=200) as traffic,
    ):
        for _ in range(count):
            states = _await_worked(stage, 2)
            engines = [int(state["engine_pid"]) for state in states.values()]
            slots = [int(state["pid"]) for state in states.values()]
            os.kill(stage.supervisor.pid(), signal.SIGKILL)
            began = time.monotonic()
            seen.faults += 1
            while any(map(is_alive, engines)) and time.monotonic() - began < 2 * ORPHANS_GONE_S:
                time.sleep(0.01)
            gone_s = max(gone_s, time.monotonic() - began)
            seen.expect(gone_s < ORPHANS_GONE_S, f"an engine outlived supervisord by {gone_s:.1f} s")
            while any(map(is_alive, slots)) and time.monotonic() - began < 2 * ORPHANS_GONE_S:
                time.sleep(0.01)
            _expect_good_ends(seen, stage, 2 * seen.faults)
            began = time.monotonic()
            stage.up()
            loads = [float(state["load_s"]) for state in stage.wait_ready(2).values()]
            seen.recovered(time.monotonic() - began - max(loads))
        hand_in(traffic.finish())
    seen.note(engines_gone_after_s=round(gone_s, 2))
    return seen


def _expect_good_ends(seen: Seen, stage: Stage, count: int) -> None:
    """So many slots drained because supervisord was gone, and hold nothing; what they held has no mark."""
    ends = [one for one in roster.exits(stage.link) if one.detail == "supervisord is gone"]
    seen.expect([one.reason for one in ends] == ["drained"] * count, f"{len(ends)} of {count} slots said why they went")
    for lane in LANES:
        for _, consumer, _, deliveries in stage.call(
            "XPENDING", keys.lane(fake.MODEL, lane), keys.GROUP, "-", "+", 10_000
        ):
            seen.expect(consumer == keys.RETURNED.encode(), f"{consumer!r} still holds a lease")
            seen.expect(deliveries == 1, "an orphan's job was marked")


CASES = (
    Case("kill -9 of slots and engines", kills, "kills", 2, 20, 500),
    Case("death at five points of the loop", fault_points, "deaths a point", 1, 3, 100),
    Case("SIGSTOP for three leases, SIGCONT", stopped_slots, "stops", 1, 2, 50),
    Case("retirement storm, max_jobs 50", retirement_storm, "jobs", 360, 2_000, 20_000),
    Case("scale 1 -> 4 -> 2", scaling, "rounds", 1, 1, 5),
    Case("supervisord killed", supervisord_killed, "kills", 1, 2, 20),
)
