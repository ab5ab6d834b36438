"""The ceiling of a payload size: bytes into a Redis stream and out again, in two processes, with nothing between.

What our slot does at the least: read by group, acknowledge, delete. No model, no result, no limits. Started by `payloads` as
`python -m benchmarks.scale.pipe URL COUNT`; ends when it was ended.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from benchmarks.stand import ROOT, clean_environment
from broker.connection import Link

STREAM, GROUP = "pipe", "readers"
CHUNK_BYTES = 1 << 20  # in one round trip, on both sides
MOST_AT_ONCE = 256
STUCK_S = 60.0


def at_once(size: int) -> int:
    """How many bodies travel together."""
    return max(1, min(MOST_AT_ONCE, CHUNK_BYTES // size))


def read(url: str, count: int) -> None:
    """The reading side, until it is ended."""
    link = Link(url)
    link.connect()
    link.call("XGROUP", "CREATE", STREAM, GROUP, "0", "MKSTREAM")
    while True:
        reply = link.call("XREADGROUP", "GROUP", GROUP, "r", "COUNT", count, "BLOCK", 1000, "STREAMS", STREAM, ">")
        if reply:
            entries = [entry for entry, _ in reply[0][1]]
            link.send(("XACK", STREAM, GROUP, *entries), ("XDEL", STREAM, *entries))
            link.read()
            link.read()


@contextlib.contextmanager
def reader(url: str, count: int) -> Iterator[int]:
    """The reading side in a process of its own; its pid."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scale.pipe", url, str(count)],
        cwd=ROOT, env=clean_environment(), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    link = Link(url)
    try:
        link.connect()
        _until(lambda: bool(link.call("EXISTS", STREAM)))
        yield process.pid
    finally:
        link.close()
        process.kill()
        process.wait()


def write(link: Link, bodies: list[bytes], count: int, most_waiting: int) -> float:
    """Sends `count` bodies, `most_waiting` of them in Redis at a time, and waits until all are gone; seconds."""
    step = at_once(len(bodies[0]))
    started = time.perf_counter()
    sent = 0
    while sent < count:
        now = min(step, count - sent)
        link.send(
            *[("XADD", STREAM, "*", "b", bodies[at % len(bodies)]) for at in range(sent, sent + now)], ("XLEN", STREAM)
        )
        waiting = int([link.read() for _ in range(now + 1)][-1])
        sent += now
        if waiting > most_waiting:
            _until(lambda: int(link.call("XLEN", STREAM)) <= most_waiting // 2)
    _until(lambda: not int(link.call("XLEN", STREAM)))
    return time.perf_counter() - started


def _until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STUCK_S
    while not is_true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the reading side stood still for {STUCK_S:g} s")
        time.sleep(0.0005)


if __name__ == "__main__":
    read(sys.argv[1], int(sys.argv[2]))
