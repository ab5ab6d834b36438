"""What this Redis keeps of what it acknowledged, when it, its machine or its place as master is lost. Reads; asks nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from operators.finding import Finding


def on_disk(info: Mapping[str, str], append: Mapping[str, str], client: str) -> Iterator[Finding]:
    """`info` is INFO, `append` what CONFIG GET *append* said, empty where this user may not ask."""
    if info.get("aof_enabled") != "1":
        yield Finding(
            "warn", "no append-only file: a crash of Redis loses queued jobs", f"{client} CONFIG SET appendonly yes"
        )
        return
    if info.get("aof_last_write_status", "ok") != "ok":
        yield Finding("fail", "Redis cannot write its append-only file", "free the disk it lies on; see its log")
    match append.get("appendfsync"):
        case "always" if append.get("no-appendfsync-on-rewrite") == "yes":
            yield Finding(
                "warn", "the append-only file is synced before each answer, but not while it is rewritten",
                f"{client} CONFIG SET no-appendfsync-on-rewrite no",
            )  # fmt: skip
        case "always":
            yield Finding(
                "ok", "append-only file is on, synced before each answer: no crash loses what was acknowledged"
            )
        case "everysec":
            yield Finding(
                "ok",
                "append-only file is on, synced each second: a crash of Redis loses nothing, one of its machine the last "
                "second or two",
            )
        case "no":
            yield Finding(
                "warn", "the append-only file is synced when the kernel likes: a crash of the machine may lose half a minute",
                f"{client} CONFIG SET appendfsync everysec",
            )  # fmt: skip
        case _:
            yield Finding("ok", "append-only file is on (how often it is synced, this user may not ask)")


def on_replicas(info: Mapping[str, str], client: str, *, is_guarded: bool) -> Iterator[Finding]:
    """`is_guarded`: the server was found through Sentinel."""
    replicas = int(info.get("connected_slaves", 0))
    if info.get("role") == "slave":
        yield Finding(
            "fail", "this Redis is a replica and takes no jobs",
            "set redis.url to its master, or to redis+sentinel://HOST:26379/SERVICE",
        )  # fmt: skip
    elif replicas and "min_slaves_good_slaves" not in info:
        yield Finding(
            "warn",
            f"{replicas} {'replica follows' if replicas == 1 else 'replicas follow'} asynchronously: a failover loses what was "
            "acknowledged and had not reached the new master, and all a cut-off master still takes",
            f"{client} CONFIG SET min-replicas-to-write 1 bounds the latter to min-replicas-max-lag",
        )
    elif replicas:
        yield Finding("ok", f"{replicas} replicas, and no writes without any of them")
    elif is_guarded:
        yield Finding(
            "warn", "Sentinel guards a master without a replica: there is nothing to fail over to", "add a replica"
        )
