"""What is not a role's work is refused, on both servers; and what a hostile producer can still do, as docs/security.md says."""

from __future__ import annotations

from typing import Any

import pytest

from broker import acl, keys, roster
from broker.connection import SCRIPTS, Link
from tests.broker.actors import Client, Slot, publish
from tests.security.conftest import Guarded, Role, is_refused

NOBODY: tuple[tuple[Any, ...], ...] = (
    ("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "SET", "maxmemory", 1), ("KEYS", "*"), ("SCAN", 0),
    ("ACL", "LIST"), ("ACL", "SETUSER", "x"), ("ACL", "WHOAMI"), ("MODULE", "LIST"), ("MODULE", "LOAD", "/tmp/x.so"),
    ("DEBUG", "SLEEP", 0), ("SHUTDOWN", "NOSAVE"), ("REPLICAOF", "NO", "ONE"), ("SLAVEOF", "NO", "ONE"), ("SAVE",),
    ("BGSAVE",), ("BGREWRITEAOF",), ("MONITOR",), ("CLIENT", "LIST"), ("CLIENT", "KILL", "ID", 1), ("SWAPDB", 0, 1),
    ("EVAL", "return 1", 0), ("SCRIPT", "FLUSH"), ("SCRIPT", "KILL"), ("SLOWLOG", "GET"), ("LATENCY", "RESET"),
    ("SUBSCRIBE", "x"), ("PUBLISH", "x", "y"), ("RANDOMKEY",), ("GET", "other:key"), ("SET", "other:key", 1),
    ("DUMP", "penstock:{m}:spec"), ("RESTORE", "penstock:{m}:x", 0, ""), ("MIGRATE", "h", 1, "k", 0, 1),
    ("UNLINK", "penstock:{m}:spec"), ("RENAME", "penstock:{m}:a", "penstock:{m}:b"),
    ("XGROUP", "DESTROY", "penstock:{m}:lane:main:normal", "slots"), ("OBJECT", "HELP"), ("SORT", "penstock:{m}:dead"),
)  # fmt: skip
LANE, WANTED, HOST = keys.lane("m", "normal"), keys.wanted("m"), keys.assignment("box")
PAUSED = keys.paused("m")

PRODUCER: tuple[tuple[Any, ...], ...] = (
    ("DEL", LANE),
    ("HSET", WANTED, "box", 9), ("HGETALL", WANTED), ("HSET", HOST, 0, "{}"), ("HGETALL", HOST), ("PEXPIRE", HOST, 1),
    ("SET", HOST, ""), ("ZADD", keys.slots(), 1, "x"), ("HSET", keys.slot("box/0"), "state", "ready"),
    ("SADD", keys.models(), "m"), ("XADD", keys.exits(), "*", "a", "b"), ("HINCRBY", keys.restarts(), "a", 1),
    ("XGROUP", "CREATE", LANE, "mine", 0), ("XGROUP", "DELCONSUMER", LANE, "slots", "x"), ("XTRIM", LANE, "MAXLEN", 0),
    ("XREADGROUP", "GROUP", "slots", "me", "STREAMS", LANE, ">"), ("XCLAIM", LANE, "slots", "me", 0, "1-1"), ("INFO",),
    ("XRANGE", keys.dead("m"), "-", "+"), ("XADD", keys.dead("m"), "*", "a", "b"), ("ZADD", keys.retiring("m"), 1, "x"),
)  # fmt: skip
NO_SETTINGS: tuple[tuple[Any, ...], ...] = (("CONFIG", "GET", "*"),)
WORKER: tuple[tuple[Any, ...], ...] = (
    ("DEL", LANE),
    ("HGETALL", keys.requests("m", "client")), ("GET", keys.dedupe_prefix("m") + "key"), ("INFO",), ("SMEMBERS", keys.models()),
    ("MGET", keys.result("m", "a-1")), ("BLPOP", keys.reply("m", "a"), 1), ("LPOP", keys.reply("m", "a")),
    ("XGROUP", "SETID", LANE, "slots", 0), ("XREVRANGE", keys.exits(), "+", "-"),
)  # fmt: skip
# Only Redis 7 tells reading a key from writing it.
WORKER_7: tuple[tuple[Any, ...], ...] = (
    ("HSET", WANTED, "box", 9), ("HSET", HOST, 0, "{}"), ("HDEL", HOST, 0), ("PEXPIRE", WANTED, 1), ("SET", HOST, ""),
    ("GET", keys.result("m", "a-1")), ("SET", keys.result("m", "a-1"), "x", "GET"),
    ("HSET", PAUSED, "low", "{}"), ("HSETNX", PAUSED, "low", "{}"), ("HDEL", PAUSED, "low"), ("PEXPIRE", PAUSED, 1),
)  # fmt: skip
MONITOR: tuple[tuple[Any, ...], ...] = (
    ("DEL", LANE),
    ("HSET", WANTED, "box", 9), ("HSET", HOST, 0, "{}"), ("SET", keys.result("m", "a-1"), ""), ("XADD", LANE, "*", "b", ""),
    ("XDEL", LANE, "1-1"), ("XACK", LANE, "slots", "1-1"), ("ZADD", keys.ready("m"), 1, "x"), ("PEXPIRE", LANE, 1),
    ("GET", keys.result("m", "a-1")), ("GETRANGE", keys.result("m", "a-1"), 0, 1), ("EVALSHA", SCRIPTS["submit"][1], 0), ("SCRIPT", "LOAD", "return 1"),
    ("SCRIPT", "EXISTS", "x"), ("HDEL", HOST, 0), ("PERSIST", LANE), ("RPUSH", keys.reply("m", "a"), ""),
    ("HSETNX", PAUSED, "low", "{}"), ("HDEL", PAUSED, "low"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        *((name, NOBODY) for name in ("default", *acl.ROLES)),
        ("worker", NO_SETTINGS), ("operator", NO_SETTINGS),
        ("producer", PRODUCER), ("default", PRODUCER), ("worker", WORKER), ("monitor", MONITOR),
    ],
)  # fmt: skip
def test_what_is_not_a_roles_work_is_refused(
    name: str, commands: tuple[tuple[Any, ...], ...], guarded: Guarded, role: Role
) -> None:
    link = Link(guarded.url) if name == "default" else role(name)
    link.connect() if name == "default" else None
    assert [command for command in commands if not is_refused(link, *command)] == []
    link.close()


def test_a_worker_cannot_steer_the_pool_where_redis_tells_reading_from_writing(guarded: Guarded, role: Role) -> None:
    if guarded.kind == "embedded":
        pytest.skip("Redis 6.2 has no read-only key patterns; docs/security.md says what that costs")
    worker = role("worker")
    roster.want(role("operator"), "box", "m", 2)
    assert roster.wanted(worker, "m") == {"box": 2}
    assert [command for command in WORKER_7 if not is_refused(worker, *command)] == []
    assert is_refused(role("producer"), "ZADD", keys.ready("m"), 1, "x")
    assert is_refused(role("producer"), "HSET", PAUSED, "low", "{}")
    assert is_refused(role("producer"), "HDEL", PAUSED, "low")


def test_only_names_that_exist_get_in_and_no_role_can_make_itself_another(guarded: Guarded, role: Role) -> None:
    from broker.errors import RedisRefused

    with pytest.raises(RedisRefused, match=r"refused us: .*; check the user and password"):
        Link(guarded.url_of("nobody")).connect()
    assert is_refused(role("operator"), "ACL", "SETUSER", "operator", "+@all")


# --- what a hostile producer can still do: docs/security.md says so -------------------------------


def test_a_hostile_producer_reads_results_whose_id_it_knows_and_cancels_jobs_of_others(
    guarded: Guarded, role: Role
) -> None:
    worker = role("worker")
    publish(worker)
    slot, victim, hostile = Slot(worker), Client(role("producer")), Client(role("producer"))
    first, second = victim.submit(2)
    slot.settle(slot.claim(1))
    outcome = hostile.result(first.id)
    assert outcome is not None
    assert outcome.id == first.id
    assert hostile.cancel(second) == 1


def test_a_hostile_producer_cannot_fill_the_queue_past_its_limits_by_submitting(guarded: Guarded, role: Role) -> None:
    from broker.spec import Limits

    publish(role("worker"), Limits(max_jobs=10, max_bytes=1 << 20, payload_limit_bytes=1 << 10))
    hostile = Client(role("producer"))
    answer = hostile.send(hostile.blobs(20))
    assert (answer.code, answer.accepted) == ("full", 10)
