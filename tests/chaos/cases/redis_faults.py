"""Redis that restarts, is killed, hangs, forgets, hangs up on everybody, or is full."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from broker import roster
from broker.connection import Link
from broker.errors import UnknownModel
from producer import Producer
from tests.chaos.case import Case, Seen, judged
from tests.chaos.fake import MODEL, OK
from tests.chaos.server import Server
from tests.chaos.stage import READY_WITHIN_S, Stage, staged
from tests.chaos.traffic import Tally, Traffic, new_serials, row
from tests.redis_topology import replicated

HELD_S = 0.3  # between two faults
PAUSE_S = 2.0
HEADROOM_BYTES = 2 << 20
KILL_EVERY_S = 0.1
DEBUG_SLEEP_S = 2


def _until_answered(stage: Stage) -> float:
    """How long until a fresh job is answered."""
    began = time.monotonic()
    with Producer(stage.url, submit_timeout_s=READY_WITHIN_S) as producer:
        (serial,) = new_serials(1)
        while True:
            try:
                producer.infer(MODEL, row(serial, OK), READY_WITHIN_S)
                return time.monotonic() - began
            except UnknownModel:  # a server that forgot everything; slots publish the model again
                if time.monotonic() - began > READY_WITHIN_S:
                    raise
                time.sleep(0.01)


def _outages(count: int, *, fsync: str, fault: Callable[[Server], None], may_lose: bool = False) -> Seen:
    seen = Seen()
    with staged(fsync=fsync) as stage, judged(stage, seen, may_lose=may_lose) as hand_in:
        assert stage.server is not None
        with Traffic(stage.url, per_s=300) as traffic:
            for _ in range(count):
                time.sleep(HELD_S)
                fault(stage.server)
                seen.faults += 1
                stage.server.start()
                seen.recovered(_until_answered(stage))
                hand_in(Tally(submitted=1, done=1))
            hand_in(traffic.finish())
    return seen


def restarted(count: int) -> Seen:
    """Redis is stopped and started again under load."""
    return _outages(count, fsync="everysec", fault=Server.stop)


def killed_always(count: int) -> Seen:
    """kill -9 of Redis with appendfsync always: nothing accepted is lost."""
    return _outages(count, fsync="always", fault=Server.kill)


def killed_everysec(count: int) -> Seen:
    """kill -9 of Redis with appendfsync everysec: what is lost is counted."""
    return _outages(count, fsync="everysec", fault=Server.kill, may_lose=True)


def failed_over(count: int) -> Seen:
    """Sentinel makes the replica the master under load, `count` times, with min-replicas-to-write 1; what is lost is counted."""
    seen = Seen()
    with tempfile.TemporaryDirectory(prefix="chaos-sentinel-", dir="/tmp") as folder:
        with replicated(Path(folder)) as servers:
            for url in (servers.first_url, servers.second_url):
                _set(url, "min-replicas-to-write", 1)
            with staged(url=servers.sentinel_url) as stage, judged(stage, seen, may_lose=True) as hand_in:
                with Traffic(stage.url, per_s=300) as traffic:
                    for _ in range(count):
                        time.sleep(HELD_S)
                        servers.fail_over()
                        seen.faults += 1
                        seen.recovered(_until_answered(stage))
                        hand_in(Tally(submitted=1, done=1))
                    hand_in(traffic.finish(20.0))
    return seen


def _set(url: str, name: str, value: int) -> None:
    link = Link(url)
    link.connect()
    link.call("CONFIG", "SET", name, value)
    link.close()


def hung_up(seconds: int) -> Seen:
    """CLIENT KILL of all connections every 100 ms."""
    seen = Seen()
    with staged() as stage, judged(stage, seen) as hand_in:
        exits = len(roster.exits(stage.link))
        with Traffic(stage.url, per_s=200) as traffic:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                stage.call("CLIENT", "KILL", "TYPE", "normal")
                seen.faults += 1
                time.sleep(KILL_EVERY_S)
            began = time.monotonic()
            tally = traffic.finish()
            seen.recovered(time.monotonic() - began)
            hand_in(tally)
        seen.expect(len(roster.exits(stage.link)) == exits, "a slot ended because of it")
    return seen


def paused(count: int) -> Seen:
    """CLIENT PAUSE and DEBUG SLEEP: all wait, no slot ends, no lease is taken from a slot that lives."""
    seen = Seen()
    with staged() as stage, judged(stage, seen) as hand_in:
        exits = len(roster.exits(stage.link))
        with Traffic(stage.url, per_s=200) as traffic:
            for _ in range(count):
                for command in (("CLIENT", "PAUSE", int(PAUSE_S * 1e3)), ("DEBUG", "SLEEP", DEBUG_SLEEP_S)):
                    stage.call(*command)
                    began = time.monotonic()
                    seen.faults += 1
                    pause_s = PAUSE_S if command[0] == "CLIENT" else 0.0
                    took_s = _until_answered(stage)
                    hand_in(Tally(submitted=1, done=1))
                    seen.recovered(min(took_s, time.monotonic() - began) - pause_s)
                    time.sleep(HELD_S)
            hand_in(traffic.finish())
        seen.expect(len(roster.exits(stage.link)) == exits, "a slot ended because of it")
    return seen


def scripts_forgotten(count: int) -> Seen:
    """SCRIPT FLUSH in the middle of the traffic."""
    seen = Seen()
    with staged() as stage, judged(stage, seen) as hand_in, Traffic(stage.url, per_s=400) as traffic:
        for _ in range(count):
            time.sleep(HELD_S)
            stage.call("SCRIPT", "FLUSH")
            seen.faults += 1
        hand_in(traffic.finish())
    return seen


def all_forgotten(count: int) -> Seen:
    """FLUSHALL in the middle: what was queued is gone and its waiters are told; what comes after is served."""
    seen = Seen()
    with staged() as stage:
        for _ in range(count):
            with Traffic(stage.url, per_s=4_000, chunk=64) as traffic:
                time.sleep(HELD_S)
                stage.call("FLUSHALL")
                seen.faults += 1
                seen.recovered(_until_answered(stage))
                tally = traffic.finish(3.0)
            seen.tally = seen.tally + tally
            seen.tried += tally.submitted
            seen.lost += tally.lost
            stage.wait_ready(stage.slots)
            after = Seen()
            with judged(stage, after) as hand_in, Traffic(stage.url, per_s=400, count=100) as traffic:
                hand_in(traffic.finish(stop=False))
            seen.tried += after.tried
            for text in after.broken:
                seen.expect(False, f"after the flush: {text}")
    return seen


def full(count: int) -> Seen:
    """maxmemory with noeviction is reached: producers are refused, slots go on and free memory, then all goes on."""
    seen = Seen()
    with staged(queue={"max_jobs": 1_000_000}) as stage, judged(stage, seen) as hand_in:
        exits = len(roster.exits(stage.link))
        for _ in range(count):
            used = int(stage.call("INFO", "memory").split(b"used_memory:")[1].split(b"\r")[0])
            stage.call("CONFIG", "SET", "maxmemory", used + HEADROOM_BYTES)
            refused = 0
            with Traffic(stage.url, per_s=1e6, chunk=256, wait_s=None, result_ttl_s=60) as traffic:
                for _ in itertools.repeat(None, int(READY_WITHIN_S / 0.01)):
                    refused = traffic.tally.refused
                    if refused:
                        break
                    time.sleep(0.01)
                tally = traffic.finish()
            hand_in(tally)
            seen.faults += 1
            seen.expect(refused > 0, "a full server refused nobody")
            seen.expect(bool(stage.ready()), "no slot is ready any more: beats fail on a full server")
            stage.call("CONFIG", "SET", "maxmemory", 0)
            seen.recovered(_until_answered(stage))
            hand_in(Tally(submitted=1, done=1))
        seen.expect(len(roster.exits(stage.link)) == exits, "a slot ended because of it")
    seen.note(refused=seen.tally.refused)
    return seen


CASES = (
    Case("Redis restarted", restarted, "restarts", 1, 2, 20),
    Case("Redis kill -9, appendfsync always", killed_always, "kills", 1, 2, 50),
    Case(
        "Redis kill -9, appendfsync everysec",
        killed_everysec,
        "kills",
        1,
        2,
        20,
        may_lose="at most what the last second brought, when the machine dies too",
    ),
    Case("Sentinel failover", failed_over, "failovers", 1, 1, 20, may_lose="what the replica had not received"),
    Case("CLIENT KILL every 100 ms", hung_up, "seconds", 2, 10, 60),
    Case("CLIENT PAUSE and DEBUG SLEEP", paused, "rounds", 1, 1, 10),
    Case("SCRIPT FLUSH", scripts_forgotten, "flushes", 2, 10, 100),
    Case("FLUSHALL", all_forgotten, "flushes", 1, 1, 5, may_lose="what was queued: Redis was told to forget it"),
    Case("maxmemory reached", full, "times", 1, 1, 5),
)
