"""Checks a pool and says the mend of each finding. Small, independent checks; none leaves anything changed.

A check yields findings and may raise PenstockError, which becomes one: a broken part never hides the next check.
"""

from __future__ import annotations

import importlib.util
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from broker import embedded
from broker.address import is_sentinel
from broker.connection import LOST, ResponseError, safe_url
from broker.errors import ArtifactError, ConfigError, DeviceError, PenstockError
from broker.settings import Settings
from operators import durability, placement
from operators.desk import unapplied
from operators.finding import Finding as Finding
from operators.large_bodies import large_bodies
from operators.left_bodies import left_bodies
from operators.reach import client_command, reached, read_append, read_info
from operators.supervision import agent, bulk_runs, supervision
from operators.supervisor import Supervisor
from operators.table import count_of

OLDEST_REDIS = (6, 2)
SLOW_ROUND_TRIP_MS = 2.0
FEW_DESCRIPTORS = 4096
BUSY_JOBS_PER_S = 1000.0  # a rate one slot may well reach; used to see whether max_jobs is too low
MB = 1 << 20


Check = Callable[[Settings], Iterator[Finding]]


def examine(settings: Settings) -> list[Finding]:
    """Runs every check in CHECKS."""
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings.extend(check(settings))
        except PenstockError as error:
            findings.append(_failed(error))
        except ResponseError as error:
            mend = "give the user of redis.url the rights of `monitor` (docs/security.md)"
            findings.append(Finding("fail", f"Redis refused what the check asks: {error}", mend))
        except LOST as error:
            findings.append(
                Finding("fail", f"Redis went away during the check: {error}", "run `penstock doctor` again")
            )
    return findings


def redis_server(settings: Settings) -> Iterator[Finding]:
    """Reachable, new enough, never evicting, bounded, durable, near."""
    if settings.is_embedded and not Supervisor(settings).is_running():
        binary = embedded.find_server()
        yield Finding("warn", f"the embedded Redis is not running (it would be {binary})", "penstock up")
        return
    with reached(settings, is_reading=True) as link:
        info = read_info(link)
        append = read_append(link) or ({"appendfsync": settings.redis.fsync} if settings.is_embedded else {})
        round_trips = []
        for _ in range(20):
            before = time.perf_counter()
            link.call("PING")
            round_trips.append((time.perf_counter() - before) * 1000)
    client = client_command(settings)
    version = info.get("redis_version", "0.0")
    where = safe_url(settings.redis_url)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        yield Finding("fail", f"Redis {version} at {where} is too old", "use Redis 6.2 or newer")
    else:
        yield Finding("ok", f"Redis {version} at {where}")
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        yield Finding("ok", "maxmemory-policy is noeviction")
    else:
        yield Finding(
            "fail",
            f"maxmemory-policy is {policy}: Redis may drop jobs",
            f"{client} CONFIG SET maxmemory-policy noeviction",
        )
    yield from _memory(settings, int(info.get("maxmemory", 0)), client)
    yield from durability.on_disk(info, append, client)
    yield from durability.on_replicas(info, client, is_guarded=is_sentinel(settings.redis_url))
    median = statistics.median(round_trips)
    if median > SLOW_ROUND_TRIP_MS:
        yield Finding(
            "warn", f"round trip to Redis is {median:.2f} ms (median of 20)", "run the pool nearer to its Redis"
        )
    else:
        yield Finding("ok", f"round trip to Redis is {median:.2f} ms (median of 20)")


def _memory(settings: Settings, limit_bytes: int, client: str) -> Iterator[Finding]:
    queues = settings.queue.max_bytes * max(1, len(settings.models))
    if limit_bytes == 0:
        yield Finding(
            "warn", "Redis has no maxmemory: a flood ends in the kernel's hands", f"{client} CONFIG SET maxmemory 4gb"
        )
    elif queues > limit_bytes:
        yield Finding(
            "warn",
            f"queue.max_bytes over {count_of(len(settings.models), 'model')} is {queues // MB} MB, Redis' maxmemory {limit_bytes // MB} MB",
            "lower queue.max_bytes or raise " + ("redis.max_memory_mb" if settings.is_embedded else "maxmemory"),
        )
    else:
        yield Finding("ok", f"maxmemory is {limit_bytes // MB} MB")


def devices(settings: Settings) -> Iterator[Finding]:
    """The device of each model is there, for the backend its artifact needs."""
    if not settings.models:
        return
    try:
        from operators import models
        from workers import devices as found
    except ImportError as error:
        yield Finding("fail", f"slots cannot run here: {error}", "pip install 'penstock[workers]'")
        return
    for name in settings.models:
        try:
            backend = models.describe(settings.artifact_path(name))["backend"]
        except ArtifactError:
            continue  # `artifacts` says it
        library = "onnxruntime" if backend == "onnx" else "torch"
        if importlib.util.find_spec(library) is None:
            yield Finding("fail", f"{name} needs {library}, which is not installed", "pip install 'penstock[workers]'")
            continue
        try:
            if backend == "onnx":
                device, providers = found.for_onnx(placement.one(settings, name))
                first = providers[0] if isinstance(providers[0], str) else providers[0][0]
                yield Finding("ok", f"{name} runs on {device} through {first}")
            else:
                yield Finding("ok", f"{name} runs on {found.for_torch(placement.one(settings, name))} through torch")
        except (ConfigError, DeviceError) as error:
            yield _failed(error)


def artifacts(settings: Settings) -> Iterator[Finding]:
    """Every artifact is as its manifest says, checksums included."""
    from operators.plan import check_artifact

    if not settings.models:
        yield Finding("warn", "no model is configured", "add a [models.NAME] table to pool.toml")
    for name in settings.models:
        try:
            check_artifact(settings, name)
        except PenstockError as error:
            yield _failed(error, mend=f"penstock models verify {name}")
        else:
            yield Finding("ok", f"artifact of {name} is as its manifest says")


def retirement(settings: Settings) -> Iterator[Finding]:
    """Limits that would make slots retire too often, or that can never act."""
    is_well = True
    for name in settings.models:
        limits = settings.retire_of(name)
        where = f"[retire] for {name}"
        if 0 < limits.max_jobs < BUSY_JOBS_PER_S * limits.min_life_s / 60:
            is_well = False
            yield Finding(
                "warn", f"{where}: max_jobs = {limits.max_jobs} may be reached well within min_life_s = {limits.min_life_s:g}",
                f"raise max_jobs, {int(BUSY_JOBS_PER_S * max(limits.min_life_s, 60))} is a minute of a busy slot",
            )  # fmt: skip
        if 0 < limits.max_age_s < limits.min_life_s:
            is_well = False
            yield Finding(
                "warn",
                f"{where}: max_age_s = {limits.max_age_s:g} is below min_life_s",
                "raise max_age_s, or set it to 0",
            )
        for kind in ("host", "device"):
            soft, hard = getattr(limits, f"{kind}_growth_mb"), getattr(limits, f"{kind}_hard_growth_mb")
            if soft and hard and hard <= soft:
                is_well = False
                yield Finding(
                    "warn",
                    f"{where}: {kind}_hard_growth_mb = {hard:g} acts before the soft limit {soft:g}",
                    "raise the hard one",
                )
            batch_mb = settings.queue.payload_limit_bytes * 2 / MB
            if 0 < soft < batch_mb:
                is_well = False
                yield Finding(
                    "warn", f"{where}: {kind}_growth_mb = {soft:g} is less than two jobs of payload_limit_bytes may take",
                    f"raise it above {batch_mb:g}",
                )  # fmt: skip
    if is_well:
        yield Finding("ok", "no setting makes slots retire too often")


def machine(settings: Settings) -> Iterator[Finding]:
    """File descriptors, and for the embedded server the kernel's memory settings."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FEW_DESCRIPTORS:
        yield Finding("warn", f"at most {soft} open files", f"ulimit -n {FEW_DESCRIPTORS}, before `penstock up`")
    else:
        yield Finding("ok", f"{soft} open files allowed")
    if not settings.is_embedded:
        return
    if _kernel("/proc/sys/vm/overcommit_memory") == "2":
        yield Finding(
            "warn",
            "vm.overcommit_memory is 2: Redis may fail to rewrite its append-only file",
            "sysctl vm.overcommit_memory=1",
        )
    if "[always]" in _kernel("/sys/kernel/mm/transparent_hugepage/enabled"):
        yield Finding(
            "warn", "transparent huge pages are always on: rewrites of the append-only file cost memory and latency",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        )  # fmt: skip


def _failed(error: PenstockError, *, mend: str = "") -> Finding:
    """Our errors end in their mend, after the last semicolon."""
    text, _, end = str(error).rpartition("; ")
    return Finding("fail", text, end) if text else Finding("fail", end, mend)


def _kernel(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


CHECKS: tuple[Check, ...] = (
    redis_server,
    supervision,
    agent,
    bulk_runs,
    unapplied.check,
    large_bodies,
    left_bodies,
    devices,
    artifacts,
    retirement,
    machine,
)
