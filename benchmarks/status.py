"""How long `penstock status` takes over a pool of 64 slots and 20 models, and what `top` costs: `python -m benchmarks.status`.

The pool is made by hand in a temporary Redis: queues with jobs, slots that beat, exits and restarts; nothing serves it.
Written to results/status.txt. Best and median of several, since a figure of one run is the machine's as much as ours.
"""

from __future__ import annotations

import fcntl
import os
import pty
import resource
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from pathlib import Path

from broker import keys, roster, spec
from broker.connection import Link
from broker.embedded import temporary_server
from broker.messages import LANES
from broker.settings import PoolSettings, RedisSettings, Settings
from operators import status

MODELS, SLOTS, JOBS = 20, 64, 50
RESULTS = Path(__file__).with_name("results") / "status.txt"
READS, COMMANDS, TOP_S = 50, 9, 20.0
WANTED = {"reading": 100.0, "the whole command": 500.0}


def fill(link: Link) -> None:
    """Queues and counters, as producers and slots leave them."""
    for at in range(MODELS):
        name = f"model-{at:02d}"
        spec.publish(link, spec.ModelSpec(name, "3", "bytes", (), (), 64), spec.Limits())
        link.call_all(
            [("XADD", keys.lane(name, lane), "*", "b", bytes(2000)) for lane in LANES for _ in range(JOBS)]
            + [("HSET", keys.counters(name), "done", 10**6, "bytes", 10**5), ("HSET", keys.wanted(name), "box", SLOTS // MODELS)]
        )  # fmt: skip
        if at % 2:  # half of them are claimed from, half wait
            for lane in LANES:
                link.call("XGROUP", "CREATE", keys.lane(name, lane), keys.GROUP, "0")
                link.call("XREADGROUP", "GROUP", keys.GROUP, "me", "COUNT", 8, "STREAMS", keys.lane(name, lane), ">")


def beat(link: Link) -> None:
    """Slots, with the past they have; what they say ends after ten seconds."""
    for number in range(SLOTS):
        model, slot = f"model-{number % MODELS:02d}", roster.slot_name("box", number)
        roster.assign(link, "box", number, roster.Assignment(model, f"/models/{model}"))
        fields = (
            "pid",
            "engine_pid",
            "jobs",
            "rows",
            "batches",
            "held",
            "host_bytes",
            "host_baseline_bytes",
            "since_ms",
        )
        state = {
            "name": slot,
            "model": model,
            "state": "ready",
            "version": "3",
            "device": "cuda:0",
            "p50_ms": 3.1,
            "p99_ms": 9.9,
        }
        link.call(*roster.announce(slot, {**state, **dict.fromkeys(fields, 1_000_000 + number)}))
        link.call("ZADD", keys.ready(model), "9" * 14, slot)
        for reason in ("max_jobs", "host_growth", "hang"):
            roster.record_exit(link, slot, reason, "as it says", 50_000)


def timed(act: Callable[[], object], times: int) -> list[float]:
    """Milliseconds of each."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        found.append((time.perf_counter() - began) * 1000)
    return found


def command(url: str) -> None:
    environ = {**os.environ, "PENSTOCK_REDIS_URL": url, "PENSTOCK_HOST": "box"}
    ran = subprocess.run(
        [sys.executable, "-m", "operators.cli", "status", "--json"], env=environ, capture_output=True, check=True
    )
    assert ran.stdout.count(b'"name": "box/') == SLOTS, "the command saw another pool"


def watching(link: Link, url: str, seconds: float) -> float:
    """The share of a core that `penstock top` takes on a terminal of 80 x 24, its start left out."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environ = {**os.environ, "PENSTOCK_REDIS_URL": url, "PENSTOCK_HOST": "box", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "operators.cli", "top"], stdin=its, stdout=its, stderr=its, env=environ
    )
    try:
        spent = []
        for lasts in (3.0, seconds):
            until = time.monotonic() + lasts
            while time.monotonic() < until:
                beat(link)
                until_next = time.monotonic() + 1
                while time.monotonic() < until_next:
                    if select.select([ours], [], [], 0.1)[0]:
                        os.read(ours, 1 << 16)
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            spent.append((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
        return (spent[1] - spent[0]) / seconds
    finally:
        process.terminate()
        process.wait()
        os.close(ours)
        os.close(its)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="status-", dir="/tmp") as folder, temporary_server(Path(folder)) as url:
        settings = Settings(redis=RedisSettings(url=url), pool=PoolSettings(host="box"))
        link = Link(url)
        link.connect()
        fill(link)
        beat(link)
        reading = timed(lambda: status.read(link, settings), READS)
        beat(link)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        whole = timed(lambda: command(url), COMMANDS)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        share = watching(link, url, TOP_S)
        link.close()
    lines = [
        f"penstock status --json: {SLOTS} slots, {MODELS} models, {JOBS * len(LANES)} jobs in each queue; {os.cpu_count()} cores"
    ]
    for (what, limit_ms), found in zip(WANTED.items(), (reading, whole), strict=True):
        line = f"{what}: median {statistics.median(found):.1f} ms, best {min(found):.1f} ms of {len(found)}; wanted below {limit_ms:g} ms"
        lines.append(line)
    cpu_ms = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000 / COMMANDS
    lines.append(f"of it on the processor: {cpu_ms:.0f} ms, most of it importing")
    lines.append(f"penstock top, a look a second on 80 x 24: {share:.1%} of a core over {TOP_S:g} s; wanted below 3 %")
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
