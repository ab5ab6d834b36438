"""durability="fsync": a submit returns when it is proven to be on disk, is refused where nothing proves it, and else says so."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker import durability, keys, spec
from broker.connection import Link
from broker.embedded import temporary_server
from broker.errors import ConfigError, SubmitNotDurable
from broker.queue import Queue
from broker.spec import Limits
from producer import AsyncProducer, Producer
from tests.producer.fake import MODEL, model_spec
from tests.producer.relay import NOT_SYNCED, SYNCED, Relay, honest

ROW = np.arange(4, dtype=np.float32)
Start = Callable[..., str]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sync-", dir="/tmp") as name:  # pytest's own are too long for a socket
        yield Path(name)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts a server with the model published; its url."""
    with ExitStack() as stack:

        def start(**options: Any) -> str:
            url = stack.enter_context(temporary_server(folder, **{"is_durable": True, "fsync": "always"} | options))
            link = Link(url.replace("unix://", "unix://admin:admin@") if options.get("has_roles") else url)
            link.connect()
            spec.publish(link, model_spec(), Limits())
            Queue(MODEL, "none").ensure_groups(link)
            link.close()
            return url

        yield start


def admin(url: str, *command: Any) -> Any:
    link = Link(url)
    link.connect()
    try:
        return link.call(*command)
    finally:
        link.close()


def depth(url: str) -> int:
    return int(admin(url, "XLEN", keys.lane(MODEL, "normal")))


# --- servers without WAITAOF ------------------------------------------------------------------


def test_a_file_that_is_synced_before_each_answer_is_proof_enough(start: Start) -> None:
    url = start()
    with Producer(url, durability="fsync") as producer:
        assert len(producer.submit_many(MODEL, [ROW] * 3)) == 3
    assert depth(url) == 3


def test_an_app_on_the_embedded_server_may_read_what_proves_it(start: Start) -> None:
    url = start(has_roles=True)
    with Producer(url, durability="fsync") as producer:
        assert len(producer.submit_many(MODEL, [ROW] * 3)) == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fsync": "everysec"}, "it has no WAITAOF, and appendfsync is everysec; upgrade it to Redis 8, or CONFIG SET"),
        ({"is_durable": False}, "its append-only file is off; CONFIG SET appendonly yes"),
    ],
)
def test_a_server_that_proves_nothing_is_refused_before_anything_is_queued(
    start: Start, options: dict[str, Any], says: str
) -> None:
    url = start(**options)
    with Producer(url, durability="fsync") as producer, pytest.raises(ConfigError, match=says):
        producer.submit(MODEL, ROW)
    assert depth(url) == 0


def test_a_rewrite_without_syncs_is_no_proof(start: Start) -> None:
    url = start()
    admin(url, "CONFIG", "SET", "no-appendfsync-on-rewrite", "yes")
    with (
        Producer(url, durability="fsync") as producer,
        pytest.raises(ConfigError, match="no-appendfsync-on-rewrite is yes"),
    ):
        producer.submit(MODEL, ROW)


def test_an_acl_that_hides_the_settings_is_named(start: Start) -> None:
    url = start()
    admin(url, "ACL", "SETUSER", "app", "on", ">p", "~*", "+@all", "-config")
    with (
        Producer(url.replace("unix://", "unix://app:p@"), durability="fsync") as producer,
        pytest.raises(ConfigError, match=r"CONFIG GET, which would tell how it syncs, is refused .* \+config\|get"),
    ):
        producer.submit(MODEL, ROW)


def test_a_server_set_otherwise_meanwhile_is_told_with_the_handles_and_asked_again(start: Start) -> None:
    url = start()
    with Producer(url, durability="fsync") as producer:
        producer.submit(MODEL, ROW)
        admin(url, "CONFIG", "SET", "appendfsync", "everysec")
        # when
        with pytest.raises(SubmitNotDurable, match="are queued, and not proven to be on Redis' disk") as caught:
            producer.submit_many(MODEL, [ROW] * 2)
        # then: they are queued, and nothing more is before Redis proves it again
        assert [one.status() for one in caught.value.accepted] == ["waiting"] * 2
        with pytest.raises(ConfigError, match="appendfsync is everysec"):
            producer.submit(MODEL, ROW)
        admin(url, "CONFIG", "SET", "appendfsync", "always")
        producer.submit(MODEL, ROW)
    assert depth(url) == 4


def test_asyncio_is_told_the_same(start: Start) -> None:
    url = start()

    async def play() -> None:
        async with AsyncProducer(url, durability="fsync") as producer:
            await producer.submit(MODEL, ROW)
            admin(url, "CONFIG", "SET", "appendfsync", "everysec")
            with pytest.raises(SubmitNotDurable) as caught:
                await producer.submit_many(MODEL, [ROW] * 2)
            assert [await one.status() for one in caught.value.accepted] == ["waiting"] * 2
            assert caught.value.job_id == caught.value.accepted[-1].id
            with pytest.raises(ConfigError, match="appendfsync is everysec"):
                await producer.submit(MODEL, ROW)

    asyncio.run(play())


def test_what_is_no_durability_is_refused() -> None:
    with pytest.raises(ConfigError, match='unknown durability "disk"; known: fsync, none'):
        Producer("unix:///nowhere", durability="disk")  # type: ignore[arg-type]


# --- WAITAOF, answered by a relay ---------------------------------------------------------------


@pytest.fixture
def relayed(start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    monkeypatch.setattr(durability, "SYNC_APART_MS", 200)
    relay = Relay(folder, Path(start(fsync="everysec").removeprefix("unix://")), honest(0.2))
    yield relay
    relay.close()


def test_waitaof_goes_behind_the_submit_in_the_same_round_trip(relayed: Relay) -> None:
    with Producer(relayed.url, durability="fsync") as producer:
        producer.submit(MODEL, ROW)
        relayed.seen.clear()
        relayed.answer = lambda _: SYNCED
        producer.submit_many(MODEL, [ROW] * 2)
        assert relayed.seen[:3] == ["EVALSHA", "PEXPIRE", "WAITAOF"]
        # and when the disk does not sync
        relayed.answer = lambda _: NOT_SYNCED
        with pytest.raises(SubmitNotDurable, match="its disk did not sync within 4 s") as caught:
            producer.submit(MODEL, ROW)
        assert caught.value.accepted[0].status() == "waiting"


def test_a_waitaof_that_does_not_wait_is_found_out(relayed: Relay) -> None:
    relayed.answer = lambda _: SYNCED  # as Redis 7.4 and Valkey 8 with appendfsync everysec
    with (
        Producer(relayed.url, durability="fsync") as producer,
        pytest.raises(
            ConfigError, match=r"WAITAOF answers before its disk has synced .* CONFIG SET appendfsync always"
        ),
    ):
        producer.submit(MODEL, ROW)


# --- a server that has WAITAOF ------------------------------------------------------------------


NEWER = os.environ.get("PENSTOCK_TEST_NEWER_REDIS") or shutil.which("valkey-server")
needs_newer = pytest.mark.skipif(
    NEWER is None, reason="no server with WAITAOF: valkey-server on PATH, or PENSTOCK_TEST_NEWER_REDIS"
)


@needs_newer
def test_a_real_server_proves_a_submit_when_it_syncs_before_each_answer(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durability, "FSYNC_WAIT_MS", 300)
    url = start(binary=NEWER)
    with Producer(url, durability="fsync") as producer:
        producer.submit(MODEL, ROW)
        assert b"cmdstat_waitaof:calls=2," in admin(url, "INFO", "commandstats"), "the probe's and the submit's"
        admin(url, "CONFIG", "SET", "appendfsync", "no")
        with pytest.raises(SubmitNotDurable, match="did not sync"):
            producer.submit(MODEL, ROW)
        with pytest.raises(ConfigError, match="never synced"):
            producer.submit(MODEL, ROW)


@needs_newer
def test_a_real_server_is_trusted_with_a_sync_each_second_only_when_it_waits(start: Start) -> None:
    url = start(binary=NEWER, fsync="everysec")
    with Producer(url, durability="fsync") as producer:
        refusal = ""
        try:
            producer.submit(MODEL, ROW)
        except ConfigError as error:
            refusal = str(error)
    assert not refusal or "WAITAOF answers before its disk has synced" in refusal
    assert depth(url) == (0 if refusal else 1)


@needs_newer
def test_waitaof_proves_nothing_on_a_new_connection_without_a_write_in_front(start: Start) -> None:
    """Why a PEXPIRE stands in front of it: a submit sent again after a lost answer writes nothing."""
    url = start(binary=NEWER)
    link = Link(url)
    link.connect()
    link.call("CONFIG", "SET", "appendfsync", "no")
    admin(url, "SET", "x", 1, "EX", 60)
    assert link.call("WAITAOF", 1, 0, 100) == [1, 0]
    assert link.call_all([("PEXPIRE", "x", 60_000), ("WAITAOF", 1, 0, 100)]) == [1, [0, 0]]
    link.close()
