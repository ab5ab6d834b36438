"""1 to 200 producers with the same jobs between them: what a reply list, a connection and a chunk for each of them costs.

Up to `PROCESSES` producers are a process each; more are threads, spread over so many processes. Every one is a `Producer` with a
client id of its own that sends its share in chunks as fast as it can, then takes all its results.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks import machine, sleeper
from benchmarks.scale import limit
from benchmarks.scale.bank import bank
from benchmarks.scale.cpu import Clock
from benchmarks.stand import ROOT, clean_environment
from broker.connection import Link
from broker.embedded import temporary_server

COUNTS = (1, 2, 5, 20, 50, 200)
QUICK_COUNTS = (1, 20)
PROCESSES = 5
CHUNK = 64
JOBS, QUICK_JOBS = 100_000, 5_000


def measure(folder: Path, is_quick: bool) -> list[dict[str, Any]]:
    """A row for each count of producers, on one slot whose forward takes nearly nothing."""
    artifact = sleeper.build(folder / "sleeper", sleep_ms=0.0)
    counts, jobs = (QUICK_COUNTS, QUICK_JOBS) if is_quick else (COUNTS, JOBS)
    with (
        temporary_server(folder / "server") as url,
        bank(folder / "bank", url, artifact, 1) as slots,
    ):
        roles = slots.roles()
        return [one(slots.link, url, slots.model, roles, count, jobs) for count in counts]


def one(link: Link, url: str, model: str, roles: dict[str, list[int]], count: int, jobs: int) -> dict[str, Any]:
    """One count. Raises RuntimeError when a producer failed."""
    shares = spread(count, PROCESSES)
    each = jobs // count
    with contextlib.ExitStack() as stack:
        crowds = [stack.enter_context(_crowd(url, model, share, each)) for share in shares]
        for crowd in crowds:
            if _line(crowd) != "ready":
                raise RuntimeError("a crowd of producers did not start; its error stands above")
        connections = int(machine.read_info(link, "clients")["connected_clients"])
        before = machine.commands(link)
        clock = Clock(roles)
        started = time.perf_counter()
        for crowd in crowds:
            assert crowd.stdin is not None
            crowd.stdin.write("\n")
            crowd.stdin.flush()
        told = [json.loads(_line(crowd) or "{}") for crowd in crowds]
        took_s = time.perf_counter() - started
        spent = clock.spent()
        commands = machine.commands(link) - before
    if failures := [text for one in told for text in one.get("failures", ["a crowd of producers died"])]:
        raise RuntimeError(failures[0])
    sent = each * count
    submit_ms = [value for one in told for value in one["submit_ms"]]
    producers_s = sum(one["cpu_s"] for one in told)
    cpu_us = spent.us_per(sent) | {"producer": round(producers_s / sent * 1e6, 2)}
    used = spent.shares() | {"producer": round(producers_s / spent.took_s, 4)}
    others = round(max(0.0, spent.others() - used["producer"]), 3)
    return {
        "producers": count,
        "processes": len(shares),
        "jobs": sent,
        "jobs_per_s": round(sent / took_s),
        "submit_p50_ms": round(percentile(submit_ms, 50), 3),
        "submit_p99_ms": round(percentile(submit_ms, 99), 3),
        "submit_jobs": min(CHUNK, each),
        "redis_commands_per_job": round(commands / sent, 2),
        "connections": connections,
        "cpu_us_per_job": cpu_us,
        "cores_used": used,
        "others_cores": others,
        "limited_by": limit.bound(shares=used, counts={"producer": len(shares)}, others=others, cores=machine.cores()),
    }


def spread(count: int, most: int) -> list[int]:
    """`count` producers over at most so many processes, evenly."""
    processes = min(count, most)
    return [count // processes + (number < count % processes) for number in range(processes)]


def percentile(values: list[float], percent: int) -> float:
    """Of few values it is the largest that comes near."""
    return values[0] if len(values) == 1 else quantiles(values, n=100, method="inclusive")[percent - 1]


@contextlib.contextmanager
def _crowd(url: str, model: str, count: int, jobs_each: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scale.crowd", url, model, *map(str, (count, jobs_each, CHUNK))],
        cwd=ROOT, env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        with process:
            try:
                yield process
            finally:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(30.0)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _line(crowd: subprocess.Popen[str]) -> str:
    assert crowd.stdout is not None
    return crowd.stdout.readline().strip()
