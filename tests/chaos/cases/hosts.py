"""A host that dies with everything on it, and one whose clock steps."""

from __future__ import annotations

import os
import signal
import time

from broker import keys
from broker.messages import LANES
from operators.supervisor import is_alive
from tests.chaos.case import Case, Seen, judged
from tests.chaos.fake import MODEL
from tests.chaos.stage import LEASE_S, READY_WITHIN_S, Stage, staged
from tests.chaos.traffic import Traffic

OTHER = "other"


def dead_host(count: int) -> Seen:
    """All processes of one of two hosts at once: its jobs are back in the queue within the lease time and two seconds."""
    seen = Seen()
    with staged() as stage, judged(stage, seen) as hand_in, Traffic(stage.url, per_s=200) as traffic:
        for _ in range(count):
            with staged(url=stage.url, executions=stage.executions, pool={"host": OTHER}) as other:
                _await_leases(stage)
                _kill_all(other)
                began = time.monotonic()
                seen.faults += 1
                while _leases_of(stage, OTHER):
                    if time.monotonic() - began > READY_WITHIN_S:
                        raise RuntimeError("nobody took the dead host's jobs")
                    time.sleep(0.02)
                took_s = time.monotonic() - began
                seen.recovered(took_s)
                seen.expect(took_s < LEASE_S + 2, f"the dead host's jobs came back only after {took_s:.1f} s")
        hand_in(traffic.finish())
    return seen


def _kill_all(stage: Stage) -> None:
    states = stage.states()
    mine = [state for name, state in states.items() if name.startswith(OTHER)]
    pids = [stage.supervisor.pid(), *(int(state[field]) for state in mine for field in ("pid", "engine_pid"))]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    while any(map(is_alive, pids)):
        time.sleep(0.01)


def _await_leases(stage: Stage) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not _leases_of(stage, OTHER):
        if time.monotonic() > deadline:
            raise RuntimeError("the other host claims nothing")
        time.sleep(0.002)


def _leases_of(stage: Stage, host: str) -> int:
    """Leases held by consumers of a host."""
    held = 0
    for lane in LANES:
        for consumer in stage.call("XINFO", "CONSUMERS", keys.lane(MODEL, lane), keys.GROUP):
            if consumer[1].startswith(f"{host}/".encode()):
                held += consumer[3]
    return held


def clock_step(count: int) -> Seen:
    """The wall clock of all slots jumps by a minute, forward and back: no deadline passes for it, no lease is lost."""
    seen = Seen()
    with staged() as stage, judged(stage, seen) as hand_in:
        with Traffic(stage.url, per_s=300, deadline_s=20.0) as traffic:
            for _ in range(count):
                for step in ("60", "-60", "0"):
                    stage.clock.write_text(step)
                    seen.faults += 1
                    time.sleep(LEASE_S)
            hand_in(traffic.finish())
    seen.expect(seen.tally.expired == 0, f"{seen.tally.expired} jobs expired by a clock's step")
    seen.expect(seen.tally.done == seen.tally.submitted, "the step cost a job its answer")
    return seen


CASES = (
    Case("a host dies with all on it", dead_host, "hosts", 1, 1, 10),
    Case("clock step of 60 s in the slots", clock_step, "rounds", 1, 1, 10),
)
