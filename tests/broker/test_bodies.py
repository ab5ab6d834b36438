"""Bodies in Redis that stand apart from their jobs: never without the job, never left behind, counted like data that travels."""

from __future__ import annotations

from typing import Any

import pytest

from broker import bodies, bodies_sweep, keys, refusals
from broker.answer import Answer
from broker.connection import Link, ResponseError
from broker.dead import DeadLetters, renew
from broker.spec import Limits
from tests.broker.actors import MODEL, Client, Slot, counted, delayed, id_of, publish
from tests.broker.apart import DATA, job, left, send, submit


def test_a_queued_body_lives_as_long_as_its_job_and_goes_with_it(client: Client, slot: Slot, link: Link) -> None:
    # given
    sent = submit(client)
    key = keys.body(MODEL, sent.id)
    assert link.call("PTTL", key) == -1
    assert counted(link, "bytes") == (len(sent.blob) + len(DATA),)
    # when
    (claimed,) = slot.claim()
    assert claimed.body is not None
    assert claimed.body.fault(link.call(*bodies_sweep.read(MODEL, claimed.body.name))) == ""
    assert slot.settle([claimed]) == 1
    # then
    assert left(link) == (0, 0)
    assert counted(link, "bytes", "done") == (0, 1)


def test_a_body_whose_producer_died_before_its_job_vanishes(client: Client, link: Link) -> None:
    _, body = job(client)
    link.call_all(bodies_sweep.write(MODEL, body))
    assert 0 < link.call("PTTL", keys.body(MODEL, next(iter(body)))) <= bodies.TTL_MS


def test_a_submit_that_is_sent_again_leaves_the_queued_body_alone(client: Client, link: Link) -> None:
    # given
    blob, body = job(client)
    commands = [*bodies_sweep.write(MODEL, body), client.command([blob], token="redis")]
    first = link.call_all(commands)
    # when
    again = link.call_all(commands)
    # then
    assert again[-1] == first[-1]
    assert link.call("PTTL", keys.body(MODEL, next(iter(body)))) == -1
    assert counted(link, "submitted") == (1,)


def test_a_refused_job_leaves_no_body_and_those_before_it_keep_theirs(client: Client, link: Link) -> None:
    # given
    publish(link, Limits(max_jobs=2))
    # when
    answer = send(client, job(client), job(client), job(client), job(client))
    # then
    assert (answer.code, answer.accepted) == ("full", 2)
    assert left(link) == (2, 2)


def test_the_limits_count_the_bytes_of_a_body(client: Client, link: Link) -> None:
    publish(link, Limits(max_bytes=2 * len(DATA), payload_limit_bytes=1 << 20))
    assert send(client, job(client), job(client)).detail == "bytes"
    publish(link, Limits(payload_limit_bytes=len(DATA)))
    refused = send(client, job(client))
    assert (refused.code, int(refused.detail) > len(DATA)) == ("too_large", True)
    assert left(link) == (1, 1)


def test_a_job_without_its_body_is_refused_and_may_come_again(client: Client, link: Link) -> None:
    # given
    blob, body = job(client)
    # when
    answer = client.send([blob], token="redis")
    # then
    assert (answer.code, answer.accepted) == ("no_body", 0)
    assert refusals.of(answer, MODEL, Limits()).retryable
    assert send(client, (blob, body)).code == "ok"


def test_a_job_validated_against_an_older_spec_is_refused_with_its_body(client: Client, link: Link) -> None:
    blob, body = job(client)
    command = client.intake.submit(1, "older", [blob], lane=2, token="redis")
    answer = Answer.read(link.call_all([*bodies_sweep.write(MODEL, body), command])[-1])
    assert answer.code == "new_spec"
    assert left(link) == (0, 0)


def test_a_duplicate_by_key_leaves_the_first_ones_body_only(client: Client, slot: Slot, link: Link) -> None:
    # given
    first, second = job(client), job(client)
    send(client, first, dedupe=[("order-1", "same")])
    # when
    answer = send(client, second, dedupe=[("order-1", "same")])
    # then
    assert answer.duplicates == {0: id_of(first[0])}
    assert [name.decode() for name in link.call("KEYS", keys.body(MODEL, "*"))] == [keys.body(MODEL, id_of(first[0]))]
    assert left(link) == (1, 1)


def test_a_retried_job_keeps_its_body_through_delayed_and_back(client: Client, slot: Slot, link: Link) -> None:
    # given
    sent = submit(client)
    # when
    slot.fail(slot.claim(), "retry")
    # then
    assert (delayed(link), left(link)) == (1, (1, 1))
    assert slot.move() == 1
    (claimed,) = slot.claim()
    assert (claimed.attempt, claimed.body and claimed.body.name) == (2, sent.id)
    assert slot.settle([claimed]) == 1
    assert (left(link), counted(link, "bytes")) == ((0, 0), (0,))


def test_a_late_settle_of_a_job_that_waits_for_its_retry_leaves_its_body(
    client: Client, slot: Slot, link: Link
) -> None:
    # given
    submit(client)
    jobs = slot.claim()
    slot.fail(jobs, "retry", delay_ms=60_000)
    # when
    assert slot.settle(jobs) == 0
    # then
    assert left(link) == (1, 1)


@pytest.mark.parametrize("fate", ["failed", "expired"])
def test_a_job_that_ends_without_a_letter_leaves_no_body(fate: Any, client: Client, slot: Slot, link: Link) -> None:
    submit(client)
    slot.fail(slot.claim(), fate)
    assert (left(link), counted(link, "bytes", fate)) == ((0, 0), (0, 1))


def test_a_job_that_expires_or_is_cancelled_while_it_waits_leaves_no_body(
    client: Client, slot: Slot, link: Link
) -> None:
    submit(client, deadline_ms=1)
    assert link.call("BLPOP", "nothing", 0.01) is None
    assert slot.claim() == []
    waiting, later = submit(client), submit(client, delay_ms=60_000)
    assert client.cancel(waiting) == client.cancel(later) == 1
    assert (left(link), counted(link, "bytes", "expired", "cancelled")) == ((0, 0), (0, 1, 2))


def test_a_dead_letter_keeps_its_body_through_a_replay(client: Client, slot: Slot, link: Link) -> None:
    # given
    sent = submit(client)
    slot.fail(slot.claim(), "dead")
    letters = DeadLetters(link, MODEL)
    (letter,) = letters.page().letters
    assert (letter.size, left(link)) == (len(sent.blob) + len(DATA), (1, 1))
    assert counted(link, "bytes") == (0,)
    # when
    found = letters.read(letter.entry)
    assert found is not None
    letters.replay(letter, "normal", renew(*found, "other-1"))
    # then
    (claimed,) = slot.claim()
    assert (claimed.id, claimed.body and claimed.body.name) == ("other-1", sent.id)
    assert claimed.context["a"] == 1
    assert counted(link, "bytes") == (claimed.size,)
    assert slot.settle([claimed]) == 1
    assert (left(link), counted(link, "bytes")) == ((0, 0), (0,))
    assert link.call("EXISTS", keys.dead_bodies(MODEL)) == 0


def test_dropping_a_dead_letter_drops_its_body_alone(client: Client, slot: Slot, link: Link) -> None:
    # given
    first, second = submit(client), submit(client)
    slot.fail(slot.claim(), "dead")
    letters = DeadLetters(link, MODEL)
    entry = next(one.entry for one in letters.page().letters if one.job == first.id)
    # when
    assert letters.drop([entry]) == 1
    # then
    assert link.call("KEYS", keys.body(MODEL, "*")) == [keys.body(MODEL, second.id).encode()]
    assert left(link) == (1, 1)


def test_a_dead_letter_pushed_out_by_newer_ones_takes_its_body_along(
    client: Client, slot: Slot, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setattr("broker.queue.DEAD_CAP", 16)
    first = submit(client)
    slot.fail(slot.claim(), "dead")
    assert link.call("BLPOP", "nothing", 0.01) is None  # letters of one millisecond go together, later
    # when
    client.submit(16)
    slot.fail(slot.claim(), "dead")
    # then
    assert link.call("EXISTS", keys.body(MODEL, first.id)) == 0
    assert (left(link), counted(link, "dead_dropped")) == ((0, 0), (1,))


def test_the_sweep_finds_the_bytes_right_as_they_are(client: Client, slot: Slot, link: Link) -> None:
    submit(client)
    submit(client, delay_ms=60_000)
    assert slot.sweep() == (0, 0, 0)


def test_a_body_that_no_job_names_is_swept_and_those_of_jobs_stay(client: Client, slot: Slot, link: Link) -> None:
    # given
    lost = submit(client)
    kept = [submit(client), submit(client, delay_ms=60_000), submit(client, lane="low")]
    (dead,) = slot.claim(1)
    assert dead.id == lost.id  # ended by a version before, which knows nothing of bodies
    link.call("XACK", slot.queue.lanes[1], keys.GROUP, dead.entry)
    link.call("XDEL", slot.queue.lanes[1], dead.entry)
    (letter,) = slot.claim(1)
    slot.fail([letter], "dead")
    # when
    assert link.call(*bodies_sweep.orphans(MODEL)) == 0  # too young
    assert link.call("BLPOP", "nothing", 0.01) is None
    assert link.call(*bodies_sweep.orphans(MODEL, orphan_ms=1)) == 1
    # then
    assert {name.decode() for name in link.call("KEYS", keys.body(MODEL, "*"))} == {
        keys.body(MODEL, one.id) for one in kept
    }


def test_a_full_redis_refuses_a_body_and_settles_those_it_has(client: Client, slot: Slot, link: Link) -> None:
    # given
    submit(client)
    claimed = slot.claim()
    link.call("CONFIG", "SET", "maxmemory", 1)
    # when
    with pytest.raises(ResponseError, match=r"OOM|maxmemory"):
        send(client, job(client))
    assert slot.settle(claimed) == 1
    # then
    link.call("CONFIG", "SET", "maxmemory", 0)
    assert left(link) == (0, 0)
