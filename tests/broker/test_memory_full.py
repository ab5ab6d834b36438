"""Redis at maxmemory with noeviction: submits are refused, all that ends jobs or shows life still works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ResponseError

from broker import keys, refusals, roster
from broker.connection import Link
from broker.errors import QueueFull
from tests.broker.actors import MODEL, Client, Slot, age, counted, delayed, depths, now_ms, pending
from tests.wait import wait_until

Fill = Callable[[], None]


@pytest.fixture
def fill(link: Link) -> Fill:
    """Lets Redis be full from now on: any write that needs memory is refused."""

    def fill() -> None:
        link.call("CONFIG", "SET", "maxmemory", 1)
        reply = link.call_all([("SET", "probe", "x")])[0]
        assert "OOM" in str(reply)

    return fill


def test_a_submit_is_refused_as_a_full_queue(link: Link, client: Client, fill: Fill) -> None:
    # given
    client.submit(3)
    fill()
    # when
    (reply,) = link.call_all([client.command(client.blobs(3))])
    # then
    refusal = refusals.by_redis(reply, MODEL)
    assert isinstance(refusal, QueueFull)
    assert refusal.retry_after_s > 0
    assert depths(link) == (0, 3, 0)
    assert counted(link, "submitted") == (3,)


@pytest.mark.parametrize("options", [{"delay_ms": 60_000}, {"dedupe": [("key", "digest")]}, {"deadline_ms": 60_000}])
def test_no_kind_of_submit_leaves_a_part_behind(
    link: Link, client: Client, fill: Fill, options: dict[str, Any]
) -> None:
    # given
    command = client.command(client.blobs(1), **options)
    fill()
    keys_before = link.call("DBSIZE")
    # when
    (reply,) = link.call_all([command])
    # then
    assert "OOM" in str(reply)
    assert (link.call("DBSIZE"), sum(depths(link)), delayed(link)) == (keys_before, 0, 0)


def test_a_submit_that_finds_expired_results_to_count_off_is_refused_too(
    link: Link, client: Client, slot: Slot, fill: Fill
) -> None:
    # given: counting them off frees memory, after which Redis lets a script write what it likes
    client.submit(1)
    slot.settle(slot.claim())
    raw = link.call("HGETALL", keys.stored(MODEL))
    link.call("HSET", keys.stored(MODEL), int(raw[0]) - 360, raw[1])
    fill()
    # when
    (reply,) = link.call_all([client.command(client.blobs(1))])
    # then
    assert "OOM" in str(reply)
    assert depths(link) == (0, 0, 0)


def test_jobs_are_claimed_settled_and_their_memory_comes_back(
    link: Link, client: Client, slot: Slot, fill: Fill
) -> None:
    # given
    client.submit(100, b"x" * 10_000, is_stored=False)
    fill()
    # when
    assert slot.settle(slot.claim()) == 100
    # then
    link.call("CONFIG", "SET", "maxmemory", 0)
    assert counted(link, "done", "bytes") == (100, 0)
    assert len(client.replies()) == 100
    client.submit(1)


def test_a_full_redis_takes_jobs_again_when_enough_have_ended(link: Link, client: Client, slot: Slot) -> None:
    # given: as much as there is now, and no more
    client.submit(100, b"x" * 10_000, is_stored=False)
    used = int(link.call("INFO", "memory").split(b"used_memory:")[1].split()[0])
    link.call("CONFIG", "SET", "maxmemory", used - 100_000)
    assert "OOM" in str(link.call_all([client.command(client.blobs(1))])[0])
    # when
    slot.settle(slot.claim())
    # then
    wait_until(lambda: client.send(client.blobs(1)).code == "ok", "a submit passes")


@pytest.mark.parametrize("is_stored", [True, False])
def test_results_are_written_although_memory_is_full(
    link: Link, client: Client, slot: Slot, fill: Fill, is_stored: bool
) -> None:
    (sent,) = client.submit(1, is_stored=is_stored)
    fill()
    assert slot.settle(slot.claim(), b"y" * 10_000) == 1
    assert client.result(sent.id) is not None


@pytest.mark.parametrize("fate", ["failed", "dead", "expired", "retry"])
def test_failures_pass(link: Link, client: Client, slot: Slot, fill: Fill, fate: str) -> None:
    client.submit(2)
    fill()
    assert slot.fail(slot.claim(), fate) == 2  # type: ignore[arg-type]
    assert pending(link) == {}


def test_expired_jobs_are_ended_by_a_claim(link: Link, client: Client, slot: Slot, fill: Fill) -> None:
    # given
    client.submit(2, deadline_ms=1)
    late = now_ms(link) + 2
    wait_until(lambda: now_ms(link) > late, "both have expired")
    fill()
    # then
    assert slot.claim() == []
    assert counted(link, "expired", "bytes") == (2, 0)


def test_beats_pass(link: Link, client: Client, slot: Slot, fill: Fill) -> None:
    # given
    client.submit(1)
    jobs = slot.claim()
    fill()
    # then: also the first of their kind, where each key is new
    assert slot.pulse(jobs, ready_ms=60_000, failing_ms=60_000, frees=True) == 0
    assert int(link.call(*roster.announce("box/0", {"state": "ready", "jobs": 1}))) > 0
    assert roster.slots(link)["box/0"]["state"] == "ready"
    assert link.call(*slot.queue.ask_to_retire("box/0", place_ttl_ms=1000)) == 1


def test_leases_are_given_back_taken_over_and_swept(
    link: Link, client: Client, slot: Slot, other: Slot, fill: Fill
) -> None:
    # given
    client.submit(6)
    first, second, third = slot.claim(2), other.claim(2), Slot(link, "gone/0.1").claim(2)
    age(link, third, "gone/0.1", idle_ms=60_000)
    fill()
    # then
    assert slot.give_back(first, marks=1) == 2
    assert other.take_over(other.name) == 2
    assert other.sweep()[0] == 2
    assert len(pending(link, keys.RETURNED)) == 6
    assert {job.entry for job in slot.claim()} == {job.entry for job in first + second + third}


def test_a_sweep_corrects_the_byte_counter(link: Link, client: Client, slot: Slot, fill: Fill) -> None:
    # given: nothing to return, so that the correction is its first write
    client.submit(1)
    link.call("HINCRBY", keys.counters(MODEL), "bytes", 50)
    fill()
    # then
    assert slot.sweep() == (0, 0, -50)


def test_delayed_jobs_move_and_jobs_are_cancelled(link: Link, client: Client, slot: Slot, fill: Fill) -> None:
    # given
    waiting, parked, due = client.submit(1)[0], client.submit(1, delay_ms=60_000)[0], client.submit(1, delay_ms=1)[0]
    fill()
    # then
    assert wait_until(slot.move, "the job is due") == 1
    assert [client.cancel(job) for job in (waiting, parked, due)] == [1, 1, 1]
    assert (depths(link), delayed(link), counted(link, "bytes")) == ((0, 0, 0), 0, (0,))


def test_a_slot_may_connect_and_load_its_scripts(redis_url: str, link: Link, client: Client, fill: Fill) -> None:
    # given
    link.call("SCRIPT", "FLUSH")
    fill()
    # when
    fresh = Link(redis_url)
    fresh.connect()
    # then
    assert Slot(fresh, "box/0.1").claim() == []
    fresh.close()


def test_a_slot_that_starts_finds_the_groups_there(link: Link, client: Client, slot: Slot, fill: Fill) -> None:
    # given: XGROUP CREATE is refused before Redis looks whether the group exists
    (sent,) = client.submit(1)
    fill()
    # when
    slot.queue.ensure_groups(link)
    # then
    assert [job.id for job in slot.claim()] == [sent.id]


def test_missing_groups_are_refused_and_not_taken_for_there(link: Link, client: Client, slot: Slot, fill: Fill) -> None:
    link.call("DEL", slot.queue.lanes[2])
    fill()
    with pytest.raises(ResponseError, match="OOM"):
        slot.queue.ensure_groups(link)


def test_a_script_forgotten_meanwhile_is_loaded_again(link: Link, client: Client, slot: Slot, fill: Fill) -> None:
    client.submit(1)
    fill()
    link.call("SCRIPT", "FLUSH")
    assert link.script("sweep", [*slot.queue.lanes, "a{x}", "b{x}", "c{x}"], [1000, 10, -1, 0]) == [0, 0, 0]
