"""Invariant 4: every key in Redis has a TTL or stands in the permanent list in broker/keys.py."""

from __future__ import annotations

from broker import keys
from broker.connection import Link


def leaked_keys(link: Link) -> list[str]:
    """Keys that would live for ever without anyone having said so."""
    names = link.call("KEYS", "*")
    ttls = link.call_all([("PTTL", name) for name in names])
    unbounded = [name.decode(errors="replace") for name, ttl in zip(names, ttls, strict=True) if ttl == -1]
    return sorted(name for name in unbounded if name.partition("}:")[2].partition(":")[0] not in keys.PERMANENT)
