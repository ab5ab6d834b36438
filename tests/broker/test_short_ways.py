"""The short ways of submit and settle leave in Redis what the long ones do, whatever comes: both are played and compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha1
from importlib import resources
from typing import Any

import msgspec
import pytest

from broker import connection, keys, script
from broker.connection import SCRIPTS, Link, ResponseError
from broker.ends import Ended
from broker.queue import INLINE_LIMIT_BYTES
from broker.spec import Limits
from tests.broker.actors import MODEL, Client, Slot, done, now_ms, publish

NAME = "aaaabbbbccccdddd"
VOLATILE = {b"mark_ms"}


def without(name: str) -> tuple[bytes, str]:
    """The script without its short way."""
    short = (resources.files("broker") / "scripts" / f"{name}_lone.lua").read_bytes()
    source = SCRIPTS[name][0]
    assert source.count(short) == 1
    source = source.replace(short, b"")
    return source, sha1(source, usedforsecurity=False).hexdigest()


def ways() -> list[dict[str, tuple[bytes, str]]]:
    return [SCRIPTS, SCRIPTS | {name: without(name) for name in ("submit", "settle")}]


def ahead(bucket: bytes, link: Link) -> bytes:
    """Whether a bucket of stored results ends between now and an hour ahead, and not which one it is."""
    seconds = 10 * int(bucket) - now_ms(link) / 1000
    return b"ahead" if 0 < seconds < 3600 else b"elsewhere"


def plain(value: Any) -> Any:
    """Without what the moment decides: times, and ids of entries, which are such."""
    return re.sub(rb"\d{13}(-\d+)?", b"TIME", value) if isinstance(value, bytes) else value


def state(link: Link) -> dict[bytes, Any]:
    """Every key: its time to live in seconds, its content."""
    found: dict[bytes, Any] = {}
    for key in link.call("KEYS", "*"):
        kind = link.call("TYPE", key)
        ttl_s = round(link.call("PTTL", key) / 10_000)
        content: Any
        if kind == b"string":
            content = link.call("GET", key)
        elif kind == b"hash":
            flat = link.call("HGETALL", key)
            pairs = zip(flat[::2], flat[1::2], strict=True)
            is_timed = key == keys.stored(MODEL).encode()
            content = sorted(
                (ahead(name, link) if is_timed else name, plain(value)) for name, value in pairs if name not in VOLATILE
            )
        elif kind == b"list":
            content = link.call("LRANGE", key, 0, -1)
        elif kind == b"stream":
            pending = link.call("XPENDING", key, keys.GROUP)[0] if b"lane" in key else 0
            content = [fields for _, fields in link.call("XRANGE", key, "-", "+")], pending
        else:
            content = link.call(*(("ZRANGE", key, 0, -1) if kind == b"zset" else ("SMEMBERS", key)))
        found[key] = (kind, ttl_s, content)
    return found


def played(
    link: Link, monkeypatch: pytest.MonkeyPatch, act: Callable[[Link], Any]
) -> list[tuple[Any, dict[bytes, Any]]]:
    """What the act gives and leaves behind, the short way and the long one."""
    seen = []
    for scripts in ways():
        link.call("FLUSHALL")
        for module in (connection, script):
            monkeypatch.setattr(module, "SCRIPTS", scripts)
        link.reload()
        publish(link, Limits(max_jobs=3, max_bytes=20_000, payload_limit_bytes=10_000))
        seen.append((act(link), state(link)))
        monkeypatch.undo()
    return seen


# --- settle ---------------------------------------------------------------------------------------


def settle(link: Link, data: bytes = b"fine", *, lane: str = "normal", before: Any = None, **options: Any) -> Any:
    """One job, from submit to settle."""
    client, slot = Client(link, NAME), Slot(link)
    (sent,) = client.submit(1, lane=lane, **options)
    (job,) = slot.claim()
    if before is not None:
        job = before(link, client, slot, job, sent) or job
    return link.call(*slot.queue.settle([Ended(job, done(job, data))]))


def watch(link: Link, client: Client, slot: Slot, job: Any, sent: Any) -> None:
    link.call(*Client(link, "curious").intake.watch(sent.id))


def move(link: Link, *_: Any) -> None:
    """Some job was delayed once."""
    link.call("HSET", keys.moved(MODEL), "other-1", "1 1-1")
    link.call("PEXPIRE", keys.moved(MODEL), 60_000)


def fill_replies(link: Link, client: Client, slot: Slot, job: Any, sent: Any) -> None:
    link.call("RPUSH", client.intake.reply_key, *range(keys.REPLY_CAP))


def lose_group(link: Link, client: Client, slot: Slot, job: Any, sent: Any) -> None:
    """The lease is gone, the entry is not: it would be run again."""
    link.call("XGROUP", "DESTROY", slot.queue.lanes[1], keys.GROUP)
    slot.queue.ensure_groups(link)


SETTLES: dict[str, dict[str, Any]] = {
    "plain": {},
    "high": {"lane": "high"},
    "low": {"lane": "low"},
    "short lived": {"ttl_s": 7},
    "unstored": {"is_stored": False},
    "just inline": {"data": b"x" * (INLINE_LIMIT_BYTES - 60)},
    "large": {"data": b"x" * INLINE_LIMIT_BYTES},
    "large and unstored": {"data": b"x" * INLINE_LIMIT_BYTES, "is_stored": False},
    "watched": {"before": watch},
    "moved": {"before": move},
    "of someone else": {"before": lambda link, client, slot, job, sent: slot.settle([job]) and None},
    "cancelled": {"before": lambda link, client, slot, job, sent: client.cancel(sent) and None},
    "garbled id": {"before": lambda link, client, slot, job, sent: msgspec.structs.replace(job, id="no dash")},
    "of no size": {"before": lambda link, client, slot, job, sent: msgspec.structs.replace(job, size=0)},
    "no id": {"before": lambda link, client, slot, job, sent: msgspec.structs.replace(job, id="")},
    "of a client that never reads": {"before": fill_replies},
    "of a client that never reads, and large": {"data": b"x" * (INLINE_LIMIT_BYTES - 60), "before": fill_replies},
    "of a group that was made anew": {"before": lose_group},
    "after a while": {"before": lambda link, *_: link.call("HSET", keys.counters(MODEL), "mark_ms", 1, "mark_done", 0) and None},
}  # fmt: skip


@pytest.mark.parametrize("name", SETTLES)
def test_a_job_is_settled_alike_both_ways(link: Link, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    short, long = played(link, monkeypatch, lambda link: settle(link, **SETTLES[name]))
    assert short == long
    assert short[0] in (0, 1)


def test_a_plain_job_does_take_the_short_way_and_several_do_not(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from outside: the long way looks twice for watchers, or not at all where it was never reached."""
    counts = []
    for jobs in (1, 2):
        link.call("FLUSHALL")
        publish(link)
        client, slot = Client(link, NAME), Slot(link)
        client.submit(jobs)
        link.call("CONFIG", "RESETSTAT")
        slot.settle(slot.claim())
        info = link.call("INFO", "commandstats").decode()
        counts.append(int(info.split("cmdstat_exists:calls=")[1].split(",")[0]))
    assert counts == [1, 1]


# --- submit ---------------------------------------------------------------------------------------


def submit(
    link: Link, data: bytes = b"data", *, before: Any = None, number: int = 200, times: int = 1, **options: Any
) -> Any:
    client = Client(link, NAME)
    if before is not None:
        before(link, client)
    command = client.command([client.blob(data)], number=number, **options)
    try:
        return [plain(link.call(*command)) for _ in range(times)]
    except ResponseError as error:
        return str(error)


def keep(link: Link, number: int) -> None:
    """An answer of that request lies there."""
    key = keys.requests(MODEL, NAME)
    link.call("HSET", key, number % keys.REQUEST_WINDOW, f"{number} what was said")
    link.call("PEXPIRE", key, keys.REQUESTS_TTL_MS)


SUBMITS: dict[str, dict[str, Any]] = {
    "plain": {},
    "high": {"lane": "high"},
    "low": {"lane": "low"},
    "twice the same request": {"times": 2},
    "an older answer in its place": {"before": lambda link, client: keep(link, 200 - keys.REQUEST_WINDOW)},
    "its own answer in its place": {"before": lambda link, client: keep(link, 200)},
    "a newer answer in its place": {"before": lambda link, client: keep(link, 200 + keys.REQUEST_WINDOW)},
    "delayed": {"delay_ms": 60_000},
    "with a key": {"dedupe": [("key", "digest")]},
    "too large": {"data": bytes(10_000)},
    "no model": {"before": lambda link, client: link.call("DEL", keys.spec(MODEL))},
    "full of jobs": {"before": lambda link, client: client.submit(3)},
    "full of delayed jobs": {"before": lambda link, client: client.submit(3, delay_ms=60_000)},
    "full of bytes": {"before": lambda link, client: client.submit(2, bytes(9_800))},
    "room for it and no more": {"data": bytes(5_000), "before": lambda link, client: client.submit(2, bytes(7_400))},
    "full of results": {"before": lambda link, client: link.call("HSET", keys.counters(MODEL), "stored_bytes", 19_999, "swept_bucket", 10**12)},
    "results to count off": {
        "before": lambda link, client: (
            link.call("HSET", keys.counters(MODEL), "stored_bytes", 19_999),
            link.call("HSET", keys.stored(MODEL), 1, 15_000),
        )
    },
    "paused": {"before": lambda link, client: (client.submit(3), link.call("HSET", keys.of_model(MODEL) + "paused", "normal", "{}"))},
}  # fmt: skip


@pytest.mark.parametrize("name", SUBMITS)
def test_a_job_is_submitted_alike_both_ways(link: Link, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    short, long = played(link, monkeypatch, lambda link: submit(link, **SUBMITS[name]))
    assert short == long
    assert any(word in str(short[0]) for word in ("ok", "full", "too_large", "stale", "unknown_model", "what was said"))


def test_a_job_of_another_generation_is_refused_both_ways(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(link: Link) -> Any:
        client = Client(link, NAME)
        return link.call(*client.intake.submit(1, "another", [client.blob()], lane=2))

    short, long = played(link, monkeypatch, act)
    assert b"new_spec" in short[0]
    assert short[1].keys() == long[1].keys()
