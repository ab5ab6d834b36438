"""`python -m tests.chaos.soak SECONDS`: the full suite again and again, beside one pool that lives all the while and must not grow.

After each case the long-lived pool gets a round of its own: jobs that raise and kill, a slot killed, all connections cut. Then it
is left alone until its results are past their TTL, and what it holds is counted: keys, Redis' memory, and the memory,
descriptors and threads of supervisord, the agent and this process.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from tests.chaos.cases import CASES
from tests.chaos.fake import ABORT, OK, RAISE
from tests.chaos.stage import Stage, staged
from tests.chaos.traffic import Traffic

RESULT_TTL_S = 2
ROUND_JOBS = 1_000
REPORT = Path("var/soak.json")
MEMORY_FLAT, COUNT_FLAT = (
    0.05,
    2,
)  # growth allowed from the second sample to the last: a share; descriptors, threads, keys
MEMORY_FLOOR_BYTES = 4 << 20  # of growth that is no growth


class Held(msgspec.Struct, frozen=True):
    """What is held at rest after a round. Bytes are resident memory."""

    keys: int
    redis_bytes: int
    supervisord: tuple[int, int, int]  # bytes, descriptors, threads
    agent: tuple[int, int, int]
    producer: tuple[int, int, int]


def main() -> int:
    """0 when every case kept its promise and nothing grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("seconds", type=float, help="for how long; the case under way is finished")
    parser.add_argument("--quick", action="store_true", help="the cases' small sizes")
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    samples: list[Held] = []
    broken: list[str] = []
    with staged(runs={"workers": 1}) as stage:
        while time.monotonic() < until or len(samples) < 3:
            case = CASES[len(samples) % len(CASES)]
            size = ["--quick"] if options.quick else []
            report = stage.folder / "case.json"
            command = [sys.executable, "-m", "tests.chaos", "--case", case.name, "--report", str(report), *size]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                broken.append(done.stdout + done.stderr)
            samples.append(_round(stage))
            print(f"{case.name}: {'BROKEN' if done.returncode else 'kept'}; {samples[-1]}", flush=True)
    grown = growth(samples)
    REPORT.parent.mkdir(exist_ok=True)
    told = {"samples": samples, "grown": grown, "broken": broken}
    REPORT.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n")
    print(*broken, *grown, f"{len(samples)} rounds, {len(broken)} broken, {len(grown)} grew; {REPORT}", sep="\n")
    return int(bool(broken or grown))


def _round(stage: Stage) -> Held:
    def code(serial: int) -> int:
        return random.choices((OK, RAISE, ABORT), (988, 10, 2))[0]

    with Traffic(stage.url, per_s=500, count=ROUND_JOBS, code=code, result_ttl_s=RESULT_TTL_S) as traffic:
        state = random.choice(list(stage.wait_ready(stage.slots).values()))
        os.kill(int(state["pid"]), signal.SIGKILL)
        stage.call("CLIENT", "KILL", "TYPE", "normal")
        traffic.finish(stop=False)
    stage.wait_ready(stage.slots)
    stage.wait_empty()
    time.sleep(RESULT_TTL_S + 1)
    _forget_clients(stage)
    return Held(
        keys=stage.call("DBSIZE"),
        redis_bytes=int(stage.call("INFO", "memory").split(b"used_memory:")[1].split(b"\r")[0]),
        supervisord=_of(stage.supervisor.pid()),
        agent=_of(stage.supervisor.agent().pid),
        producer=_of(os.getpid()),
    )


def _forget_clients(stage: Stage) -> None:
    """What clients that have gone left behind lives for minutes by design; a soak does not wait for it."""
    for pattern in ("penstock:*:requests:*", "penstock:*:reply:*", "penstock:*:watchers"):
        cursor = b"0"
        while True:
            cursor, found = stage.call("SCAN", cursor, "MATCH", pattern, "COUNT", 500)
            if found:
                stage.call("DEL", *found)
            if cursor == b"0":
                break


def _of(pid: int) -> tuple[int, int, int]:
    status = Path(f"/proc/{pid}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0]) * 1024
    return resident, len(os.listdir(f"/proc/{pid}/fd")), int(status.partition("Threads:")[2].split()[0])


def growth(samples: list[Held]) -> list[str]:
    """What the last sample holds more of than the second (the first round fills caches); in words."""
    first, last = samples[1], samples[-1]
    found = []
    for name in ("supervisord", "agent", "producer"):
        before, after = getattr(first, name), getattr(last, name)
        if _has_grown(before[0], after[0]):
            found.append(f"memory of {name} grew from {before[0]} to {after[0]} bytes")
        for what, old, new in zip(("descriptors", "threads"), before[1:], after[1:], strict=True):
            if new > old + COUNT_FLAT:
                found.append(f"{what} of {name} grew from {old} to {new}")
    if _has_grown(first.redis_bytes, last.redis_bytes):
        found.append(f"Redis grew from {first.redis_bytes} to {last.redis_bytes} bytes")
    if last.keys > first.keys + COUNT_FLAT:
        found.append(f"keys grew from {first.keys} to {last.keys}")
    return found


def _has_grown(before: int, after: int) -> bool:
    return after > before * (1 + MEMORY_FLAT) + MEMORY_FLOOR_BYTES


if __name__ == "__main__":
    sys.exit(main())
