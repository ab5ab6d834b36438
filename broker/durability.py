"""Whether a submit that Redis acknowledged is on its disk: the commands that ask, and what their answers prove. No I/O here.

Two proofs: WAITAOF (from 7.2 on) waits for the fsync behind a submit; a server without it proves the same only while its
append-only file is synced before each answer. Which one a server offers is asked of it, never read from its version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from redis.exceptions import NoPermissionError

from broker import keys
from broker.connection import Command
from broker.errors import ConfigError
from broker.settings import unknown

Durability = Literal["none", "fsync"]
Proof = Literal["waitaof", "always"]

SYNC_APART_MS = 1000  # with appendfsync everysec two syncs are never closer
FSYNC_WAIT_MS = 4000  # under the link's read timeout; with appendfsync everysec a healthy disk takes about one second
_SETTINGS: Command = ("CONFIG", "GET", "*append*")


def check(name: str) -> Durability:
    """Raises ConfigError for what is no durability."""
    for known in get_args(Durability):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise ConfigError(unknown("durability", str(name), get_args(Durability)))


def probe() -> list[Command]:
    """Asks what the server offers. WAITAOF itself is the probe: COMMAND INFO would not tell whether it may be used."""
    return [("WAITAOF", 1, 0, 1), _SETTINGS]


def read_probe(replies: Sequence[Any]) -> Proof | None:
    """The proof to ask for with each submit; None when `test` must tell first whether WAITAOF waits.

    Raises ConfigError with the setting to change when there is no proof.
    """
    waited, settings = replies
    if isinstance(settings, Exception):
        settings = [] if isinstance(waited, list) else settings
    elif _setting(settings, "appendonly") == "no":
        raise _refused("its append-only file is off", "CONFIG SET appendonly yes")
    elif isinstance(waited, list) and _setting(settings, "appendfsync") == "no":
        raise _refused("its append-only file is never synced (appendfsync no)", "CONFIG SET appendfsync everysec")
    if isinstance(waited, list):
        return "waitaof" if _setting(settings, "appendfsync") == "always" else None
    if "appendonly" in str(waited):
        raise _refused("its append-only file is off", "CONFIG SET appendonly yes")
    if isinstance(waited, NoPermissionError):
        raise _refused("its ACL forbids WAITAOF to this user", "ACL SETUSER NAME +waitaof")
    if isinstance(settings, Exception):
        raise _refused(
            f"it has no WAITAOF, and CONFIG GET, which would tell how it syncs, is refused to this user ({settings})",
            "upgrade it to Redis 8, or ACL SETUSER NAME +config|get",
        )
    if why := _no_always(settings):
        raise _refused(f"it has no WAITAOF, and {why[0]}", f"upgrade it to Redis 8, or {why[1]}")
    return "always"


def test(model: str, client: str) -> list[Command]:
    """Two writes, each waited for, and the server's clock around them.

    With appendfsync everysec Redis 7.4 and Valkey 8.0 and 8.1 answer WAITAOF before they sync (redis#13793) [M]. A server that
    waits needs a second between two syncs; one that is quicker has not synced twice.
    """
    requests = keys.requests(model, client)
    write: Command = ("PEXPIRE", requests, keys.REQUESTS_TTL_MS)
    wait: Command = ("WAITAOF", 1, 0, FSYNC_WAIT_MS)
    return [("TIME",), ("HSET", requests, "probe", ""), write, wait, write, wait, ("TIME",)]


def read_test(replies: Sequence[Any]) -> None:
    """Raises ConfigError when WAITAOF does not wait."""
    before, _, _, first, _, second, after = replies
    took_ms = (int(after[0]) - int(before[0])) * 1000 + (int(after[1]) - int(before[1])) // 1000
    if first[0] and second[0] and took_ms < SYNC_APART_MS * 0.9:
        raise _refused(
            "its WAITAOF answers before its disk has synced (Redis 7.4 and Valkey 8 do so with appendfsync everysec)",
            "CONFIG SET appendfsync always and let this user read it (+config|get), upgrade it to Redis 8",
        )


def prove(proof: Proof, model: str, client: str) -> list[Command]:
    """Goes behind a submit, on the same connection and in the same round trip.

    WAITAOF waits for what its own connection wrote. A submit sent again after a lost answer writes nothing, so something
    else must be written in front of it: else WAITAOF would answer at once, and prove nothing.
    """
    if proof == "always":
        return [_SETTINGS]
    return [("PEXPIRE", keys.requests(model, client), keys.REQUESTS_TTL_MS), ("WAITAOF", 1, 0, FSYNC_WAIT_MS)]


def doubt(proof: Proof, replies: Sequence[Any]) -> str:
    """Why the submit in front of `prove` is not proven to be on disk; '' when it is."""
    for reply in replies:
        if isinstance(reply, Exception):
            return f"Redis refused to prove it: {reply}"
    if proof == "always":
        why = _no_always(replies[0])
        return f"{why[0]}; {why[1]}" if why else ""
    written, (synced, _) = replies
    if not written:
        return "Redis forgot the request at once"
    return "" if synced >= 1 else f"its disk did not sync within {FSYNC_WAIT_MS / 1000:g} s"


def _no_always(settings: Sequence[bytes]) -> tuple[str, str] | None:
    """What keeps the server from syncing before each answer, and its mend."""
    for name, wanted in (("appendonly", "yes"), ("appendfsync", "always"), ("no-appendfsync-on-rewrite", "no")):
        found = _setting(settings, name)
        if found != wanted:
            ours = ' (the embedded server: redis.fsync = "always" in pool.toml)' if name == "appendfsync" else ""
            return f"{name} is {found or 'unknown'}", f"CONFIG SET {name} {wanted}{ours}"
    return None


def _setting(flat: Sequence[bytes], name: str) -> str:
    pairs = dict(zip(flat[::2], flat[1::2], strict=True))
    return pairs.get(name.encode(), b"").decode()


def _refused(why: str, mend: str) -> ConfigError:
    return ConfigError(
        f'durability="fsync" is more than this Redis gives: {why}; {mend}, or submit with durability="none"'
    )
