"""Dead letters in Redis: what is kept of them, replaying and dropping, each in one script."""

from __future__ import annotations

from typing import Any

import pytest

from broker import codec, keys
from broker.connection import Link
from broker.dead import DeadLetters, Letter, renew
from broker.errors import InvalidInput, QueueFull, UnknownLetter, UnknownModel
from broker.messages import Kind
from broker.spec import Limits
from tests.broker.actors import (
    LIMITS,
    MODEL,
    Client,
    Slot,
    counted,
    counters,
    dead_entries,
    delayed,
    depths,
    id_of,
    pending,
    publish,
)


@pytest.fixture
def dead(link: Link, client: Client) -> DeadLetters:
    return DeadLetters(link, MODEL)


def bury(client: Client, slot: Slot, count: int = 1, **options: Any) -> list[Letter]:
    """Letters of `count` jobs that have just died, oldest first."""
    client.submit(count, **options)
    jobs = slot.claim()
    assert slot.fail(jobs, "dead") == count
    found = DeadLetters(client.link, MODEL).page(count=count).letters
    return found[::-1]


def letters(dead: DeadLetters) -> list[str]:
    return [letter.id for letter in dead.page().letters]


def again(dead: DeadLetters, letter: Letter, job_id: str = "again-1", lane: str | None = None) -> bytes:
    found = dead.read(letter.entry)
    assert found is not None
    body = renew(*found, job_id)
    dead.replay(letter, lane or letter.lane, body)
    return body


# --- what is kept ----------------------------------------------------------------------------


def test_a_letter_says_what_is_known_of_the_death(client: Client, slot: Slot, other: Slot, dead: DeadLetters) -> None:
    # given: it died in the second engine that held it
    (sent,) = client.submit(1, lane="low")
    slot.claim()
    slot.take_over(slot.name)
    other.fail(other.claim(), "dead")
    # then
    page = dead.page()
    (letter,) = page.letters
    assert (letter.id, letter.job) == (f"{MODEL}:{sent.id}", sent.id)
    assert (letter.reason, letter.error) == ("test", "dead on purpose")
    assert (letter.attempts, letter.deliveries, letter.lane, letter.size) == (1, 2, "low", len(sent.blob))
    assert letter.submitted_ms <= letter.died_ms <= page.now_ms
    assert (page.cursor, dead.read(letter.entry)) == ("", (letter, sent.blob))


def test_a_letter_of_the_version_before_is_read_without_its_error(
    link: Link, client: Client, dead: DeadLetters
) -> None:
    # given: an entry as it was written before errors were kept
    link.call("XADD", keys.dead(MODEL), "*", "id", "a-1", "reason", "old", "attempts", 1, "deliveries", 3,
              "submitted_ms", 5, "lane", 1, "job", client.blob())  # fmt: skip
    # then
    (letter,) = dead.page().letters
    assert (letter.reason, letter.error, letter.lane) == ("old", "", "high")


def test_pages_go_from_the_newest_to_the_oldest_and_miss_none(client: Client, slot: Slot, dead: DeadLetters) -> None:
    # given
    buried = [letter.id for letter in bury(client, slot, 25)]
    # when
    found, cursor = [], "+"
    while cursor:
        page = dead.page(cursor, count=10)
        assert len(page.letters) <= 10
        found += [letter.id for letter in page.letters]
        cursor = page.cursor
    # then
    assert found == buried[::-1]


def test_a_page_reads_a_bounded_number_of_bytes(client: Client, slot: Slot, dead: DeadLetters) -> None:
    # given: 12 MB of bodies
    bury(client, slot, 24, data=b"x" * 500_000)
    # then
    first = dead.page()
    assert len(first.letters) < 20
    assert first.cursor


def test_letters_are_filtered_by_reason(link: Link, client: Client, slot: Slot, dead: DeadLetters) -> None:
    # given
    (letter,) = bury(client, slot)
    # then
    assert [one.id for one in dead.page(reason="test").letters] == [letter.id]
    assert dead.page(reason="tes").letters == []


def test_a_letter_is_found_by_the_id_of_its_job(client: Client, slot: Slot, dead: DeadLetters) -> None:
    found = bury(client, slot, 30)
    assert list(dead.entries(found[20].job)) == [found[20].entry]
    assert list(dead.entries("nobody-1")) == []


# --- replaying -------------------------------------------------------------------------------


def test_a_replay_runs_the_same_job_anew_under_a_new_id(
    link: Link, client: Client, slot: Slot, dead: DeadLetters
) -> None:
    # given: dead at its second attempt and second delivery, with a deadline
    (sent,) = client.submit(1, b"the body", lane="high", deadline_ms=60_000, retries=2)
    slot.fail(slot.claim(), "retry")
    slot.move()
    slot.give_back(slot.claim(), marks=1)
    slot.fail(slot.claim(), "dead")
    (letter,) = dead.page().letters
    assert (letter.attempts, letter.deliveries) == (2, 2)
    # when
    again(dead, letter, "new-7")
    # then
    assert letters(dead) == []
    (job,) = slot.claim()
    assert (job.id, job.lane, job.attempt, job.deliveries, job.deadline_ms) == ("new-7", 0, 1, 1, 0)
    assert (job.data[job.offset :], job.rows, job.kind, job.retries) == (b"the body", 1, Kind.BYTES, 2)
    assert job.context == {"replay_of": f"{MODEL}:{sent.id}"}
    assert job.submitted_ms >= letter.died_ms
    # when
    slot.settle([job])
    # then: the result stands under the new id, the old one stays as it ended
    outcome, old = client.result("new-7"), client.result(sent.id)
    assert outcome is not None
    assert old is not None
    assert (outcome.status.name, old.status.name) == ("DONE", "DEAD")
    assert counted(link, "submitted", "done", "dead", "replayed", "bytes") == (2, 1, 1, 1, 0)
    assert (depths(link), pending(link), delayed(link)) == ((0, 0, 0), {}, 0)


def test_a_replay_may_go_to_another_lane(link: Link, client: Client, slot: Slot, dead: DeadLetters) -> None:
    (letter,) = bury(client, slot)
    again(dead, letter, lane="low")
    assert depths(link) == (0, 0, 1)


def test_a_second_replay_says_it_is_gone_and_queues_nothing(
    link: Link, client: Client, slot: Slot, dead: DeadLetters
) -> None:
    # given: two operators have read the same letter
    (letter,) = bury(client, slot)
    found = dead.read(letter.entry)
    assert found is not None
    again(dead, letter)
    # then
    with pytest.raises(UnknownLetter, match=r"no dead letter tiny:.*penstock dead ls"):
        dead.replay(letter, "normal", renew(*found, "again-2"))
    assert depths(link) == (0, 1, 0)
    assert counted(link, "replayed") == (1,)


def test_a_dropped_letter_cannot_be_replayed(link: Link, client: Client, slot: Slot, dead: DeadLetters) -> None:
    (letter,) = bury(client, slot)
    found = dead.read(letter.entry)
    assert found is not None
    assert dead.drop([letter.entry]) == 1
    with pytest.raises(UnknownLetter):
        dead.replay(letter, "normal", renew(*found, "again-1"))
    assert depths(link) == (0, 0, 0)


def test_a_full_queue_refuses_the_replay_and_the_letter_stays(
    link: Link, client: Client, slot: Slot, dead: DeadLetters
) -> None:
    # given
    (letter,) = bury(client, slot)
    client.submit(2)
    for limits, what in ((Limits(max_jobs=2), "jobs"), (Limits(max_bytes=200), "bytes")):
        publish(link, limits)
        before = counters(link)
        # then
        with pytest.raises(QueueFull, match=f"at its limit of {what}.*still among the dead letters.*max_{what}"):
            again(dead, letter)
        assert (letters(dead), counters(link)) == ([letter.id], before)
    # when: there is room again
    publish(link, LIMITS)
    again(dead, letter)
    assert letters(dead) == []


def test_stored_results_past_their_time_leave_room_for_a_replay(
    link: Link, client: Client, slot: Slot, dead: DeadLetters
) -> None:
    # given: the books still hold results that have vanished, for nobody has submitted since
    (letter,) = bury(client, slot)
    link.call("DEL", keys.stored(MODEL))
    link.call("HSET", keys.stored(MODEL), 1, LIMITS.max_bytes)
    link.call("HSET", keys.counters(MODEL), "stored_bytes", LIMITS.max_bytes)
    # then
    again(dead, letter)
    assert letters(dead) == []


def test_a_server_at_maxmemory_refuses_the_replay_and_lets_letters_be_dropped(
    link: Link, client: Client, slot: Slot, dead: DeadLetters
) -> None:
    # given
    first, second = bury(client, slot, 2)
    link.call("CONFIG", "SET", "maxmemory", 1)
    before = counters(link)
    # then
    with pytest.raises(QueueFull, match=r"at maxmemory.*still among the dead letters"):
        again(dead, first)
    assert counters(link) == before
    assert letters(dead) == [second.id, first.id]
    assert dead.drop([first.entry]) == 1
    assert letters(dead) == [second.id]


def test_a_model_that_nobody_publishes_refuses_the_replay(
    link: Link, client: Client, slot: Slot, dead: DeadLetters
) -> None:
    (letter,) = bury(client, slot)
    link.call("DEL", keys.spec(MODEL))
    with pytest.raises(UnknownModel, match="nobody would run"):
        again(dead, letter)
    assert letters(dead) == [letter.id]


def test_a_replay_that_dies_again_names_the_id_before(client: Client, slot: Slot, dead: DeadLetters) -> None:
    # given
    (letter,) = bury(client, slot)
    again(dead, letter, "again-1")
    slot.fail(slot.claim(), "dead")
    # when
    (second,) = dead.page().letters
    again(dead, second, "again-2")
    # then
    (job,) = slot.claim()
    assert (second.id, job.context) == (f"{MODEL}:again-1", {"replay_of": f"{MODEL}:again-1"})


def test_a_replayed_job_keeps_tensors_and_context_and_its_result_is_stored(client: Client) -> None:
    # given: an unstored job of two rows
    columns = codec.pack_columns([("x", "float32", (3,))])
    head, tail = codec.encode_job_head(
        kind=Kind.TENSORS, rows=2, is_one_row=False, is_stored=False, retries=5, result_ttl_s=77, descriptor=columns,
        context={"tenant": "a"},
    )  # fmt: skip
    body = codec.encode_job(head, b"ab-7", tail, bytes(range(24)))
    letter = Letter("tiny:ab-7", "test", "", 1, 1, "normal", 5, 9, len(body), "9-0")
    # when
    renewed = renew(letter, body, "a-much-longer-client-7")
    # then
    job = codec.decode_job(renewed, entry=b"", lane=1, deliveries=1, submitted_ms=5)
    assert (job.id, job.rows, job.is_one_row, job.retries) == ("a-much-longer-client-7", 2, False, 5)
    assert (job.is_stored, job.result_ttl_s) == (True, 77)
    assert job.context == {"tenant": "a", "replay_of": "tiny:ab-7"}
    assert renewed[job.offset :] == bytes(range(24))
    assert id_of(renewed) == job.id


def test_a_garbled_job_is_not_replayed_and_says_how_to_be_rid_of_it(
    link: Link, client: Client, slot: Slot, dead: DeadLetters
) -> None:
    (letter,) = bury(client, slot)
    with pytest.raises(InvalidInput, match=f"garbled.*penstock dead drop {letter.id}"):
        renew(letter, b"\x01nothing", "again-1")


def test_a_context_without_room_for_the_old_id_is_refused(client: Client) -> None:
    # given
    head, tail = codec.encode_job_head(
        kind=Kind.BYTES, rows=1, is_one_row=True, is_stored=True, retries=0, result_ttl_s=9, descriptor=b"",
        context={"x": "y" * 65_520},
    )  # fmt: skip
    body = codec.encode_job(head, b"ab-7", tail, b"")
    letter = Letter("tiny:ab-7", "test", "", 1, 1, "normal", 5, 9, len(body), "9-0")
    # then
    with pytest.raises(InvalidInput, match="no room for the old id"):
        renew(letter, body, "a-1")


# --- dropping --------------------------------------------------------------------------------


def test_dropping_counts_what_was_there(link: Link, client: Client, slot: Slot, dead: DeadLetters) -> None:
    # given
    buried = bury(client, slot, 5)
    entries = [letter.entry for letter in buried[:3]]
    # then
    assert dead.drop(entries) == 3
    assert (dead.drop(entries), dead.drop([])) == (0, 0)
    assert letters(dead) == [buried[4].id, buried[3].id]
    assert counted(link, "discarded") == (3,)
    assert len(dead_entries(link)) == 2
