"""Submitting a chunk: what is queued, and that an answer lost on the way never loses or doubles a job."""

from __future__ import annotations

import random
import threading

import pytest

from broker import keys, refusals
from broker.answer import Answer
from broker.connection import LOST, Link
from broker.errors import StaleRequest
from broker.script import SCRIPTS
from tests.broker.actors import LIMITS, MODEL, Client, Slot, counted, delayed, depths, id_of, lane_key, publish


def entries(link: Link, lane: str = "normal") -> list[tuple[str, bytes]]:
    """(entry id, job bytes) of a lane."""
    return [(entry.decode(), fields[1]) for entry, fields in link.call("XRANGE", lane_key(lane), "-", "+")]


# --- what is queued --------------------------------------------------------------------------


@pytest.mark.parametrize("lane", ["high", "normal", "low"])
def test_a_chunk_lands_in_its_lane_in_order(link: Link, client: Client, lane: str) -> None:
    # when
    sent = client.submit(5, lane=lane)
    # then
    assert [blob for _, blob in entries(link, lane)] == [job.blob for job in sent]
    assert sum(depths(link)) == 5
    assert counted(link, "submitted", "bytes") == (5, sum(len(job.blob) for job in sent))


def test_entry_ids_computed_from_the_first_are_the_real_ones(link: Link, client: Client) -> None:
    # when: several chunks, some in the same millisecond
    sent = [job for _ in range(20) for job in client.submit(37)]
    # then
    assert [job.entry for job in sent] == [entry for entry, _ in entries(link)]


def test_entry_ids_are_the_real_ones_when_duplicates_stand_between(link: Link, client: Client) -> None:
    # given
    client.send(client.blobs(1), dedupe=[("b", "digest")])
    # when
    blobs = client.blobs(4)
    answer = client.send(blobs, dedupe=[("a", "1"), ("b", "digest"), ("", ""), ("c", "3")])
    # then
    found = {id_of(blob): entry for entry, blob in entries(link)}
    assert [answer.entry(index) for index in range(4)] == [found.get(id_of(blob), "") for blob in blobs]
    assert answer.entry(1) == ""


def test_a_delayed_job_has_no_entry_and_counts_in_bytes(link: Link, client: Client) -> None:
    # when
    (job,) = client.submit(delay_ms=60_000)
    # then
    assert (job.entry, delayed(link), sum(depths(link))) == ("", 1, 0)
    assert counted(link, "bytes", "submitted") == (len(job.blob), 1)


def test_a_model_nobody_published_is_refused(link: Link, client: Client) -> None:
    link.call("DEL", keys.spec(MODEL))
    assert client.send(client.blobs(1)).code == "unknown_model"
    assert sum(depths(link)) == 0


def test_a_spec_that_changed_since_it_was_read_is_refused(link: Link, client: Client) -> None:
    # given
    blobs = client.blobs(1)
    # when
    reply = link.call(*client.intake.submit(1, "another generation", blobs, lane=1))
    # then
    answer = Answer.read(reply)
    assert (answer.code, answer.detail) == ("new_spec", publish(link))
    assert sum(depths(link)) == 0


# --- request numbers -------------------------------------------------------------------------


def test_the_same_request_number_gets_the_same_answer_and_queues_nothing(link: Link, client: Client) -> None:
    # given
    blobs = client.blobs(3)
    first = client.send(blobs, number=7)
    # when
    again = client.send(blobs, number=7)
    # then
    assert again == first
    assert len(entries(link)) == 3
    assert counted(link, "submitted") == (3,)


def test_a_refusal_is_replayed_too(link: Link, client: Client) -> None:
    # given
    publish(link, limits=type(LIMITS)(max_jobs=2))
    blobs = client.blobs(3)
    first = client.send(blobs, number=7)
    # when: there is room by now
    publish(link)
    again = client.send(blobs, number=7)
    # then
    assert first.code == "full"
    assert again == first
    assert len(entries(link)) == 2


def test_a_number_older_than_the_window_is_stale_and_not_applied(link: Link, client: Client) -> None:
    # given
    client.send(client.blobs(1), number=1)
    client.send(client.blobs(1), number=1 + keys.REQUEST_WINDOW)
    # when
    answer = client.send(client.blobs(1), number=1)
    # then
    assert (answer.code, answer.accepted, answer.detail) == ("stale", 0, "129")
    assert isinstance(refusals.of(answer, MODEL, LIMITS), StaleRequest)
    assert len(entries(link)) == 2


def test_two_clients_with_the_same_number_do_not_meet(link: Link, client: Client) -> None:
    # given
    other = Client(link)
    # when
    client.send(client.blobs(1), number=1)
    other.send(other.blobs(1), number=1)
    # then
    assert len(entries(link)) == 2


def test_numbers_stop_while_an_old_one_is_unanswered(client: Client) -> None:
    # given
    numbers = client.intake.numbers
    taken = [numbers.take() for _ in range(keys.REQUEST_WINDOW)]
    assert not numbers.has_room()
    # when
    numbers.answered(taken[0])
    # then
    assert numbers.has_room()


def test_no_job_is_lost_or_doubled_when_four_threads_lose_answers(redis_url: str, link: Link, client: Client) -> None:
    # given: one client, its numbers shared by four threads
    lock = threading.Condition()
    accepted: list[str] = []
    problems: list[object] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        line = Link(redis_url)
        line.connect()
        for _ in range(500):
            with lock:  # as a producer does: never more than the window ahead of the oldest unanswered
                assert lock.wait_for(client.intake.numbers.has_room, 10)
                number, blob = client.intake.numbers.take(), client.blob()
            command = client.command([blob], number=number)
            for _ in range(rng.choice((0, 0, 0, 1, 2))):  # the answer is lost: nobody knows whether it was applied
                line.send(command)
                line.connect()
            answer = Answer.read(line.call(*command))
            with lock:
                client.intake.numbers.answered(number)
                lock.notify_all()
                (accepted if answer.code == "ok" else problems).append(id_of(blob))
        line.close()

    def guarded(seed: int) -> None:
        try:
            work(seed)
        except (AssertionError, *LOST) as error:
            problems.append(error)

    # when
    threads = [threading.Thread(target=guarded, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # then
    assert not problems
    assert len(accepted) == 2000
    queued = [id_of(blob) for _, blob in entries(link)]
    assert sorted(queued) == sorted(accepted)
    assert counted(link, "submitted") == (2000,)


# --- idempotency keys ------------------------------------------------------------------------


def submit_keyed(client: Client, key: str, digest: str) -> tuple[Answer, str]:
    (blob,) = client.blobs(1)
    return client.send([blob], dedupe=[(key, digest)]), id_of(blob)


def test_the_same_key_and_content_is_the_same_job(link: Link, client: Client) -> None:
    # given
    _, first_id = submit_keyed(client, "order-1", "digest")
    # when: from another process
    answer, _ = submit_keyed(Client(link), "order-1", "digest")
    # then
    assert (answer.code, answer.accepted, answer.duplicates) == ("ok", 1, {0: first_id})
    assert len(entries(link)) == 1


def test_the_same_key_with_other_content_is_a_conflict_that_stops_the_chunk_there(link: Link, client: Client) -> None:
    # given
    submit_keyed(client, "order-1", "digest")
    # when
    answer = client.send(client.blobs(3), dedupe=[("order-0", "x"), ("order-1", "other"), ("order-2", "x")])
    # then
    assert (answer.code, answer.accepted, answer.detail) == ("conflict", 1, "order-1")
    assert len(entries(link)) == 2


def test_the_same_key_twice_in_one_chunk_is_one_job(link: Link, client: Client) -> None:
    # when
    blobs = client.blobs(2)
    answer = client.send(blobs, dedupe=[("a", "d"), ("a", "d")])
    # then
    assert (answer.accepted, answer.duplicates) == (2, {1: id_of(blobs[0])})
    assert len(entries(link)) == 1


def test_a_key_still_names_its_job_after_that_has_ended(client: Client, slot: Slot) -> None:
    # given
    _, first_id = submit_keyed(client, "order-1", "digest")
    slot.settle(slot.claim())
    # when
    answer, _ = submit_keyed(client, "order-1", "digest")
    # then
    assert answer.duplicates == {0: first_id}
    assert client.result(first_id) is not None


# --- scripts forgotten -----------------------------------------------------------------------


def test_scripts_the_server_has_forgotten_are_loaded_again(link: Link, client: Client) -> None:
    # given
    link.call("SCRIPT", "FLUSH")
    command = client.command(client.blobs(1))
    # when
    (reply,) = link.run_all([command])
    # then
    assert Answer.read(reply).code == "ok"
    assert len(entries(link)) == 1
    assert link.call("SCRIPT", "EXISTS", SCRIPTS["submit"][1]) == [1]
    # when: as a call of its own
    link.call("SCRIPT", "FLUSH")
    assert link.script("results", ["no such"], ["a-1", "nor this"]) == [None]
