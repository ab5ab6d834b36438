"""Redis ill in other ways than gone: emptied, read-only, forgetful, silent. Every caller is answered, or told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from broker import keys
from broker.aconnection import AsyncLink
from broker.connection import LOST, Link
from broker.errors import RedisRefused
from producer import AsyncProducer, Producer, RedisUnavailable, ResultExpired, UnknownModel
from tests.producer.fake import MODEL, Worker
from tests.wait import wait_until

ROW = np.arange(4, dtype=np.float32)
Publish = Callable[..., None]
Play = Callable[[AsyncProducer], Any]


@pytest.fixture
def play(redis_url: str, publish: Publish) -> Callable[[Play], Any]:
    """Runs a coroutine function with an AsyncProducer."""

    def play(part: Play) -> Any:
        async def run() -> Any:
            async with AsyncProducer(redis_url, submit_timeout_s=5.0) as producer, asyncio.timeout(20):
                return await part(producer)

        return asyncio.run(run())

    return play


@pytest.fixture
def demoted(link: Link) -> Iterator[Callable[[float], threading.Timer]]:
    """Makes the server a replica of nobody for so many seconds."""
    timers: list[threading.Timer] = []

    def demote(seconds: float) -> threading.Timer:
        link.call("REPLICAOF", "127.0.0.1", 1)
        timer = threading.Timer(seconds, promote)
        timers.append(timer)
        timer.start()
        return timer

    def promote() -> None:
        own = Link(link.url)
        own.connect()
        own.call("REPLICAOF", "NO", "ONE")
        own.close()

    yield demote
    for timer in timers:
        timer.join()
    promote()


def calls(link: Link, command: str) -> int:
    """How often a command was called since the last CONFIG RESETSTAT; 7.0 counts subcommands apart."""
    return sum(
        int(line.split("calls=")[1].split(",")[0])
        for line in link.call("INFO", "commandstats").decode().splitlines()
        if line.startswith((f"cmdstat_{command}:", f"cmdstat_{command}|"))
    )


# --- emptied ------------------------------------------------------------------------------------


def test_who_waits_for_a_job_that_was_wiped_is_told_soon(producer: Producer, link: Link) -> None:
    # given
    handle = producer.submit(MODEL, ROW)
    threading.Timer(0.1, link.call, ("FLUSHALL",)).start()
    began = time.monotonic()
    # when: without a time-out
    with pytest.raises(ResultExpired, match="or Redis lost it"):
        handle.result()
    # then
    assert time.monotonic() - began < 5
    with pytest.raises(ResultExpired):
        producer.result(handle.id, 5)


def test_asyncio_is_told_as_soon(play: Callable[[Play], Any], link: Link) -> None:
    async def part(producer: AsyncProducer) -> None:
        handle = await producer.submit(MODEL, ROW)
        link.call("FLUSHALL")
        with pytest.raises(ResultExpired):
            await handle.result()

    play(part)


def test_a_client_goes_on_with_its_numbers_when_the_model_is_published_again(
    producer: Producer, link: Link, publish: Publish, redis_url: str
) -> None:
    # given
    first = producer.submit(MODEL, ROW)
    link.call("FLUSHALL")
    with pytest.raises(UnknownModel):
        producer.submit(MODEL, ROW)
    # when: as a slot does when it sees its groups gone; the spec may be another one by now
    publish(max_rows=32)
    with Worker(redis_url):
        second = producer.submit(MODEL, ROW)
        assert second.result(5)["y"][1] == 2.0
    assert second.id != first.id


# --- forgetful ----------------------------------------------------------------------------------


def test_asyncio_loads_forgotten_scripts_again_wherever_it_needs_them(
    play: Callable[[Play], Any], link: Link, redis_url: str
) -> None:
    async def part(producer: AsyncProducer) -> None:
        handle = await producer.submit(MODEL, ROW)
        for ask in (handle.status, handle.cancel, lambda: producer.submit(MODEL, ROW)):
            link.call("SCRIPT", "FLUSH")
            await ask()
        link.call("SCRIPT", "FLUSH")
        async with AsyncProducer(redis_url) as other:
            assert await other.handle(handle.id).status() == "cancelled"

    play(part)


def test_connecting_again_loads_no_script_that_is_there(link: Link, redis_url: str) -> None:
    """Redis 6.2 writes each SCRIPT LOAD to its append-only file, which would grow with every reconnect."""

    async def connect() -> None:
        again = AsyncLink(redis_url)
        await again.connect()
        await again.close()

    link.call("CONFIG", "RESETSTAT")
    asyncio.run(connect())
    assert calls(link, "script") == 1, "SCRIPT EXISTS alone"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_server_that_takes_no_scripts_is_one_error_and_no_endless_loop(
    link: Link, redis_url: str, publish: Publish, is_async: bool
) -> None:
    # given: a user who may do all but load scripts, and a server that forgets them in the middle
    link.call("ACL", "SETUSER", "app", "reset", "on", ">p", "~*", "+@all")
    url = redis_url.replace("unix://", "unix://app:p@")

    def forget() -> None:
        link.call("ACL", "SETUSER", "app", "-script", "+script|exists")
        link.call("SCRIPT", "FLUSH")

    async def part() -> None:
        async with AsyncProducer(url, submit_timeout_s=1.0) as producer:
            await producer.submit(MODEL, ROW)
            forget()
            await producer.submit(MODEL, ROW)

    def same() -> None:
        with Producer(url, submit_timeout_s=1.0) as producer:
            producer.submit(MODEL, ROW)
            forget()
            producer.submit(MODEL, ROW)

    # then
    with pytest.raises(RedisRefused, match=r"NOPERM|no permissions"):
        asyncio.run(part()) if is_async else same()
    link.call("ACL", "DELUSER", "app")


def test_a_reader_that_is_refused_says_so_in_our_words(producer: Producer, link: Link) -> None:
    handle = producer.submit(MODEL, ROW)
    link.call("DEL", handle._channel.intake.reply_key)
    link.call("SET", handle._channel.intake.reply_key, "no list", "EX", 60)
    with pytest.raises(RedisUnavailable, match="WRONGTYPE"):
        handle.result(0.5)


# --- read-only, and not there -------------------------------------------------------------------


def test_a_server_that_was_demoted_is_waited_for(
    producer: Producer, link: Link, redis_url: str, demoted: Callable[[float], threading.Timer]
) -> None:
    # given
    with Worker(redis_url) as worker:
        producer.infer(MODEL, ROW, 5)
        demoted(0.4)
        # when
        handle = producer.submit(MODEL, ROW)
        assert handle.result(5)["y"][1] == 2.0
    assert len(worker.runs) == 2


def test_asyncio_waits_for_it_as_well(
    play: Callable[[Play], Any], redis_url: str, worker: Worker, demoted: Callable[[float], threading.Timer]
) -> None:
    async def part(producer: AsyncProducer) -> None:
        await producer.infer(MODEL, ROW, 5)
        demoted(0.4)
        handle = await producer.submit(MODEL, ROW)
        assert (await handle.result(5))["y"][1] == 2.0

    play(part)
    assert len(worker.runs) == 2


def test_a_demoted_server_is_not_asked_again_and_again(
    producer: Producer, link: Link, demoted: Callable[[float], threading.Timer]
) -> None:
    handle = producer.submit(MODEL, ROW)
    timer = demoted(0.8)
    link.call("CONFIG", "RESETSTAT")
    with pytest.raises((RedisUnavailable, TimeoutError)):
        handle.result(0.6)
    assert calls(link, "blpop") + calls(link, "evalsha") < 30
    timer.join()


def test_an_async_link_takes_not_now_for_a_loss(
    redis_url: str, link: Link, demoted: Callable[[float], threading.Timer]
) -> None:
    async def part() -> None:
        own = AsyncLink(redis_url)
        await own.connect()
        demoted(0.1)
        with pytest.raises(LOST, match="READONLY"):
            await own.call_all([("PING",), ("SET", "x", 1), ("PING",)])
        assert not own.is_connected
        await own.close()

    asyncio.run(part())


def test_a_wrong_password_is_told_at_once_and_not_after_the_patience(link: Link, redis_url: str) -> None:
    async def part() -> None:
        async with AsyncProducer(redis_url.replace("unix://", "unix://nobody:wrong@")) as producer:
            await producer.submit(MODEL, ROW)

    began = time.monotonic()
    with pytest.raises(RedisUnavailable, match="refused us"):
        asyncio.run(part())
    assert time.monotonic() - began < 5


def test_killing_all_connections_costs_asyncio_nothing(play: Callable[[Play], Any], worker: Worker, link: Link) -> None:
    is_over = threading.Event()

    def storm() -> None:
        own = Link(link.url)
        own.connect()
        while not is_over.wait(0.01):
            for line in own.call("CLIENT", "LIST", "TYPE", "normal").decode().splitlines():
                if " name=worker " not in line:
                    own.call_all([("CLIENT", "KILL", "ID", line.split()[0].removeprefix("id="), "SKIPME", "yes")])
        own.close()

    async def part(producer: AsyncProducer) -> list[str]:
        killer = threading.Thread(target=storm)
        killer.start()
        try:
            handles = [await producer.submit(MODEL, ROW) for _ in range(40)]
        finally:
            is_over.set()
            killer.join()
        for handle in handles:
            await handle.result(10)
        return [handle.id for handle in handles]

    ids = play(part)
    assert sorted(worker.runs) == sorted(one.removeprefix(f"{MODEL}:") for one in ids)


# --- silent -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server_silent_for_longer_than_a_read_waits_counts_nothing_twice(
    producer: Producer, play: Callable[[Play], Any], worker: Worker, link: Link
) -> None:
    """CLIENT PAUSE of 6 s: every read of ours times out once, everything is sent again."""

    async def part(apart: AsyncProducer) -> list[Any]:
        await apart.infer(MODEL, ROW, 5)
        link.call("CLIENT", "PAUSE", 6000)
        return await asyncio.gather(*(apart.submit(MODEL, ROW) for _ in range(20)))

    producer.infer(MODEL, ROW, 5)
    found: list[Any] = []

    async def all_of_it(apart: AsyncProducer) -> None:
        for handle in await part(apart):
            found.append(await handle.result(10))

    async def patient() -> None:
        async with AsyncProducer(link.url, submit_timeout_s=20.0) as apart:
            await all_of_it(apart)

    thread = threading.Thread(target=lambda: asyncio.run(patient()))
    thread.start()
    wait_until(lambda: len(worker.runs) >= 2, "asyncio has begun")
    handles = producer.submit_many(MODEL, [ROW] * 20)
    for handle in handles:
        assert handle.result(20)["y"][1] == 2.0
    thread.join(30)
    assert len(found) == 20
    assert len(worker.runs) == len(set(worker.runs)) == 42
    assert int(link.call("HGET", keys.counters(MODEL), "done")) == 42
