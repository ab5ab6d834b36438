"""Sweeping: leases of hosts that went away are returned, consumers of the past deleted, the byte counter corrected."""

from __future__ import annotations

from broker import keys
from broker.connection import Link
from tests.broker.actors import MODEL, Client, Slot, age, counted, depths, groups_consumers, pending


def test_a_sweep_returns_only_leases_nobody_renewed(link: Link, client: Client, slot: Slot, other: Slot) -> None:
    # given
    client.submit(4)
    lost, kept = slot.claim(2), other.claim(2)
    age(link, lost, slot.name, idle_ms=20_000)
    # when
    assert other.sweep(lease_ms=15_000) == (2, 0, 0)
    # then: with a crash mark
    assert set(pending(link, keys.RETURNED).values()) == {(keys.RETURNED, 2)}
    assert set(pending(link, other.name)) == {job.entry.decode() for job in kept}


def test_a_sweep_leaves_returned_leases_as_they_are(link: Link, client: Client, slot: Slot, other: Slot) -> None:
    # given
    client.submit(2)
    jobs = slot.claim()
    slot.give_back(jobs)
    age(link, jobs, keys.RETURNED, idle_ms=20_000)
    # then: not even their count
    assert other.sweep() == (0, 0, 0)
    assert set(pending(link).values()) == {(keys.RETURNED, 1)}


def test_many_returned_leases_do_not_hide_a_lost_one_from_the_sweep(
    link: Link, client: Client, slot: Slot, other: Slot
) -> None:
    # given: returned leases nobody claims fill what one sweep looks at
    client.submit(21)
    jobs = slot.claim()
    slot.give_back(jobs[:20])
    age(link, jobs[:20], keys.RETURNED, idle_ms=20_000)
    age(link, jobs[20:], slot.name, idle_ms=20_000)
    # then
    assert other.sweep(most=10)[0] == 1


def test_a_sweep_takes_no_more_than_asked_for(link: Link, client: Client, slot: Slot, other: Slot) -> None:
    # given
    client.submit(7)
    age(link, slot.claim(), slot.name, idle_ms=20_000)
    # then
    assert [other.sweep(most=5)[0] for _ in range(3)] == [5, 2, 0]


def test_a_sweep_deletes_no_consumer_that_was_here_lately(link: Link, client: Client, slot: Slot, other: Slot) -> None:
    client.submit(1)
    slot.settle(slot.claim())
    assert other.sweep()[1] == 0
    assert slot.name in groups_consumers(link)


def test_a_sweep_corrects_a_wrong_byte_counter_and_reports_by_how_much(
    link: Link, client: Client, slot: Slot, other: Slot
) -> None:
    # given: waiting, claimed and delayed jobs
    sent = client.submit(3, b"x" * 100) + client.submit(2, lane="low") + client.submit(2, delay_ms=60_000)
    slot.claim(2)
    right = sum(len(job.blob) for job in sent)
    link.call("HINCRBY", keys.counters(MODEL), "bytes", 1000)
    # then
    assert other.sweep() == (0, 0, -1000)
    assert counted(link, "bytes") == (right,)
    assert other.sweep() == (0, 0, 0)


def test_a_sweep_counts_long_lanes_right(link: Link, client: Client, slot: Slot) -> None:
    client.submit(100)
    client.submit(8, lane="low")
    link.call("HINCRBY", keys.counters(MODEL), "bytes", -7)
    assert slot.sweep() == (0, 0, 7)


def test_a_sweep_counts_the_bytes_of_retries_right(client: Client, slot: Slot, other: Slot) -> None:
    client.submit(3, deadline_ms=60_000)
    slot.fail(slot.claim(), "retry", delay_ms=60_000)
    assert other.sweep() == (0, 0, 0)


def test_a_sweep_recounts_no_more_than_4_mb(link: Link, client: Client, slot: Slot) -> None:
    # given: few jobs, but large ones; no script handles more than 4 MB
    for _ in range(6):
        client.submit(1, b"x" * 900_000)
    client.submit(6, b"x" * 100_000, delay_ms=60_000)
    link.call("HINCRBY", keys.counters(MODEL), "bytes", 1000)
    # then: the queue is left for a quieter hour
    assert slot.sweep() == (0, 0, 0)
    # when
    slot.settle(slot.claim(5))
    # then
    assert slot.sweep() == (0, 0, -1000)
    assert depths(link) == (0, 1, 0)


def test_a_sweep_of_a_model_without_streams_finds_nothing(link: Link, client: Client, slot: Slot) -> None:
    for lane in slot.queue.lanes:
        link.call("DEL", lane)
    assert slot.sweep() == (0, 0, 0)


def test_a_sweep_that_waited_in_a_server_that_stood_still_returns_nothing(
    link: Link, client: Client, slot: Slot, other: Slot
) -> None:
    # given: leases that ended while nobody could renew them
    client.submit(2)
    age(link, slot.claim(), slot.name, idle_ms=20_000)
    seconds, micros = link.call("TIME")
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    # then: the sweep sent before all that is late, the next one is not
    assert other.sweep(now_ms=now_ms - 5_100) == (0, 0, 0)
    assert other.sweep(now_ms=now_ms - 4_000)[0] == 2
