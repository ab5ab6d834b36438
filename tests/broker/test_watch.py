"""Waiting for another process' job: the outcome is there already, or comes to the watcher's own reply list."""

from __future__ import annotations

import pytest

from broker import keys, outcome_codec
from broker.connection import Link
from broker.messages import Status
from broker.queue import INLINE_LIMIT_BYTES
from tests.broker.actors import MODEL, Client, Slot


def watch(client: Client, job_id: str) -> bytes | None:
    reply = client.link.call(*client.intake.watch(job_id))
    assert reply is None or isinstance(reply, bytes)
    return reply


def test_a_watcher_is_sent_the_outcome_when_it_comes(link: Link, client: Client, slot: Slot) -> None:
    # given
    watcher = Client(link)
    sent, unwatched = client.submit(2)
    assert watch(watcher, sent.id) is None
    # when
    slot.settle(slot.claim())
    # then
    assert [outcome.id for outcome in watcher.replies()] == [sent.id]
    assert [outcome.id for outcome in client.replies()] == [sent.id, unwatched.id]
    assert link.call("EXISTS", keys.watchers(MODEL)) == 0


def test_a_watcher_who_comes_late_gets_the_stored_outcome_at_once(link: Link, client: Client, slot: Slot) -> None:
    # given
    (sent,) = client.submit(1)
    slot.settle(slot.claim())
    # when
    blob = watch(Client(link), sent.id)
    # then
    assert blob is not None
    assert outcome_codec.decode(blob) == client.replies()[0]
    assert link.call("EXISTS", keys.watchers(MODEL)) == 0


def test_any_number_of_watchers_is_served_once_each(link: Link, client: Client, slot: Slot) -> None:
    # given
    watchers = [Client(link) for _ in range(5)]
    (sent,) = client.submit(1)
    for watcher in watchers * 2:
        watch(watcher, sent.id)
    # when
    slot.settle(slot.claim())
    # then
    assert [[outcome.id for outcome in one.replies()] for one in [*watchers, client]] == [[sent.id]] * 6


@pytest.mark.parametrize("fate", ["failed", "dead", "cancelled", "expired"])
def test_a_watcher_hears_of_every_end(link: Link, client: Client, slot: Slot, fate: str) -> None:
    # given
    watcher = Client(link)
    (sent,) = client.submit(1)
    watch(watcher, sent.id)
    # when
    if fate == "cancelled":
        client.cancel(sent)
    else:
        slot.fail(slot.claim(), fate)  # type: ignore[arg-type]
    # then
    assert [outcome.status for outcome in watcher.replies()] == [Status[fate.upper()]]


def test_a_retry_tells_the_watcher_nothing_yet(link: Link, client: Client, slot: Slot) -> None:
    # given
    watcher = Client(link)
    (sent,) = client.submit(1)
    watch(watcher, sent.id)
    # when
    slot.fail(slot.claim(), "retry", delay_ms=60_000)
    # then
    assert watcher.replies() == []
    assert link.call("HEXISTS", keys.watchers(MODEL), sent.id) == 1


def test_a_watcher_of_a_large_outcome_gets_the_notice(link: Link, client: Client, slot: Slot) -> None:
    # given
    watcher = Client(link)
    (sent,) = client.submit(1, is_stored=False)
    watch(watcher, sent.id)
    # when
    slot.settle(slot.claim(), b"x" * INLINE_LIMIT_BYTES)
    # then
    (notice,) = watcher.replies()
    assert notice.note["is_elsewhere"] is True
    assert watcher.result(sent.id) is not None


def test_watching_ends_by_itself(link: Link, client: Client) -> None:
    watch(client, "a-1")
    assert 0 < link.call("PTTL", keys.watchers(MODEL)) <= keys.WATCH_TTL_MS


def test_a_blocking_wait_is_woken_by_the_outcome(redis_url: str, link: Link, client: Client, slot: Slot) -> None:
    # given
    (sent,) = client.submit(1)
    waiter = Link(redis_url)
    waiter.connect()
    waiter.send(client.intake.wait(5))
    # when
    slot.settle(slot.claim())
    # then
    _, element = waiter.read()
    waiter.close()
    assert outcome_codec.id_of(outcome_codec.split_frames(element)[0]) == sent.id
