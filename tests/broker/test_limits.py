"""The limits of a queue: jobs and bytes, stored results included, and which part of a chunk is taken."""

from __future__ import annotations

import pytest

from broker import keys, refusals
from broker.connection import Link
from broker.errors import PayloadTooLarge, QueueFull
from broker.spec import Limits
from tests.broker.actors import LIMITS, MODEL, Client, Slot, counted, depths, lane_key, now_ms, publish


def stored(link: Link) -> dict[int, int]:
    """Expiry bucket -> bytes of stored results."""
    raw = link.call("HGETALL", keys.stored(MODEL))
    return {int(raw[at]): int(raw[at + 1]) for at in range(0, len(raw), 2)}


def let_results_expire(link: Link) -> None:
    """What an hour does: results are gone, their buckets lie in the past."""
    for bucket, size in stored(link).items():
        link.call("HDEL", keys.stored(MODEL), bucket)
        link.call("HSET", keys.stored(MODEL), bucket - 360, size)
    for key in link.call("KEYS", keys.result(MODEL, "*")):
        link.call("DEL", key)
    link.call("HDEL", keys.counters(MODEL), "swept_bucket")


def test_the_prefix_that_fits_the_job_limit_is_taken(link: Link, client: Client) -> None:
    # given
    publish(link, Limits(max_jobs=5))
    client.submit(2)
    client.submit(1, delay_ms=60_000)
    # when
    blobs = client.blobs(4)
    answer = client.send(blobs)
    # then
    assert (answer.code, answer.accepted, answer.detail) == ("full", 2, "jobs")
    assert [fields[1] for _, fields in link.call("XRANGE", lane_key("normal"), "-", "+")][2:] == blobs[:2]
    assert answer.retry_after_ms == 1000  # nothing drains yet


def test_the_job_limit_counts_all_lanes_and_claimed_jobs(link: Link, client: Client, slot: Slot) -> None:
    # given
    publish(link, Limits(max_jobs=3))
    client.submit(1, lane="high")
    client.submit(1, lane="low")
    slot.claim()
    # then
    assert client.send(client.blobs(2)).accepted == 1


def test_the_prefix_that_fits_the_byte_limit_is_taken(link: Link, client: Client) -> None:
    # given
    blobs = client.blobs(5, b"x" * 1000)
    publish(link, Limits(max_bytes=3 * len(blobs[0]) + 10))
    # when
    answer = client.send(blobs)
    # then
    assert (answer.code, answer.accepted, answer.detail) == ("full", 3, "bytes")
    assert counted(link, "bytes") == (3 * len(blobs[0]),)


def test_room_comes_back_with_the_jobs_that_end(link: Link, client: Client, slot: Slot) -> None:
    # given
    publish(link, Limits(max_jobs=3))
    client.submit(3, is_stored=False)
    # when
    slot.settle(slot.claim(2))
    # then
    assert client.send(client.blobs(3)).accepted == 2


def test_stored_results_count_towards_the_bytes(link: Link, client: Client, slot: Slot) -> None:
    # given
    client.submit(10)
    slot.settle(slot.claim(), b"y" * 10_000)
    bytes_queued, bytes_stored = counted(link, "bytes", "stored_bytes")
    assert (bytes_queued, bytes_stored) == (0, sum(stored(link).values()))
    assert 100_000 < bytes_stored < 105_000
    # when
    publish(link, Limits(max_bytes=bytes_stored + 100))
    answer = client.send(client.blobs(3))
    # then
    assert (answer.code, answer.accepted, answer.detail) == ("full", 1, "bytes")


def test_stored_bytes_drop_when_the_results_have_expired(link: Link, client: Client, slot: Slot) -> None:
    # given
    client.submit(10)
    slot.settle(slot.claim(), b"y" * 10_000)
    publish(link, Limits(max_bytes=50_000))
    assert client.send(client.blobs(1)).code == "full"
    # when
    let_results_expire(link)
    # then
    assert client.send(client.blobs(1)).code == "ok"
    assert counted(link, "stored_bytes") == (0,)
    assert stored(link) == {}


def test_buckets_still_to_come_stay_counted(link: Link, client: Client, slot: Slot) -> None:
    # given
    client.submit(1)
    slot.settle(slot.claim(), b"past")
    let_results_expire(link)
    client.submit(1, ttl_s=3600)
    slot.settle(slot.claim(), b"y" * 1000)
    link.call("HDEL", keys.counters(MODEL), "swept_bucket")
    # when
    client.submit(1)
    # then
    (bucket,) = stored(link)
    assert counted(link, "stored_bytes") == (stored(link)[bucket],)
    assert bucket * 10_000 > now_ms(link) + 3_600_000 - 10_000


def test_a_result_is_in_no_bucket_that_ends_before_it_expires(link: Link, client: Client, slot: Slot) -> None:
    # given
    client.submit(1, ttl_s=7)
    # when
    slot.settle(slot.claim())
    # then
    (key,) = link.call("KEYS", keys.result(MODEL, "*"))
    (bucket,) = stored(link)
    assert bucket * 10_000 >= now_ms(link) + link.call("PTTL", key)


def test_a_job_over_the_payload_limit_stops_the_chunk_there(link: Link, client: Client) -> None:
    # given
    publish(link, Limits(payload_limit_bytes=1000))
    blobs = [client.blob(), client.blob(b"x" * 1000), client.blob()]
    # when
    answer = client.send(blobs)
    # then
    assert (answer.code, answer.accepted, answer.detail) == ("too_large", 1, str(len(blobs[1])))
    assert isinstance(refusals.of(answer, MODEL, LIMITS), PayloadTooLarge)
    assert sum(depths(link)) == 1


def test_a_full_queue_tells_when_half_of_it_will_be_gone(link: Link, client: Client) -> None:
    # given: 100 jobs/s are drained, 60 wait
    publish(link, Limits(max_jobs=60))
    client.submit(60)
    link.call("HSET", keys.counters(MODEL), "rate", 100)
    # when
    answer = client.send(client.blobs(1))
    # then
    refusal = refusals.of(answer, MODEL, Limits(max_jobs=60))
    assert isinstance(refusal, QueueFull)
    assert refusal.retry_after_s == pytest.approx(0.3)


def test_the_drain_rate_is_measured_over_a_second_or_more(link: Link, client: Client, slot: Slot) -> None:
    # given: the last mark is 2 s old
    client.submit(100)
    slot.settle(slot.claim(20))
    link.call("HSET", keys.counters(MODEL), "mark_ms", now_ms(link) - 2000, "mark_done", 0)
    # when
    slot.settle(slot.claim(80))
    # then: 100 jobs in 2 s
    assert counted(link, "rate")[0] in range(45, 51)


# --- memory ----------------------------------------------------------------------------------

COUNT = 5000


def used_memory(link: Link) -> int:
    info: bytes = link.call("INFO", "memory")
    return int(info.split(b"used_memory:")[1].split()[0])


def test_a_queued_job_costs_at_most_250_bytes_beside_its_payload(link: Link, client: Client) -> None:
    # given
    client.submit(1)
    before = used_memory(link)
    # when
    for _ in range(COUNT // 250):
        client.submit(250, b"p" * 256)
    # then
    each = (used_memory(link) - before) / COUNT - 256
    print(f"MEMORY queued: 256 B + {each:.0f} B")
    assert each <= 250


@pytest.mark.parametrize(("at_once", "is_alone", "most"), [(3, True, 300), (250, False, 80)])
def test_a_stored_result_costs_few_bytes_beside_itself(
    link: Link, client: Client, slot: Slot, at_once: int, is_alone: bool, most: int
) -> None:
    # given
    client.submit(1)
    slot.settle(slot.claim())
    client.replies()
    before = used_memory(link)
    for _ in range(COUNT // 250):
        client.submit(250, b"p" * 256)
    # when
    while jobs := slot.claim(at_once):
        slot.settle(jobs, b"r" * 256)
        client.replies()
    # then: 256 bytes of result in an outcome of 24 + id + 3
    assert (link.call("DBSIZE") > COUNT) is is_alone
    each = (used_memory(link) - before) / COUNT - 256
    print(f"MEMORY stored, {at_once} at once: 256 B + {each:.0f} B")
    assert each <= most
