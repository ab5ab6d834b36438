"""Results that were settled together lie together, and are found as if each had its own key."""

from __future__ import annotations

import msgspec
import pytest

from broker import bunches, keys
from broker.connection import Link
from broker.ends import Ended
from broker.errors import DecodeError
from broker.messages import Job
from broker.outcome_codec import FRAME
from broker.queue import INLINE_LIMIT_BYTES
from tests.broker.actors import BUNCH, FIRST_BUNCHED, MODEL, Client, Sent, Slot, counted, done, now_ms, pending
from tests.wait import wait_until

ALONE = FIRST_BUNCHED - 1


@pytest.fixture
def client(client: Client, slot: Slot) -> Client:
    """One that has had its first jobs, whose results are stored alone."""
    client.submit(ALONE)
    slot.settle(slot.claim())
    client.replies()
    client.link.call("DEL", *client.link.call("KEYS", keys.result(MODEL, "*")), keys.stored(MODEL))
    client.link.call("HDEL", keys.counters(MODEL), "stored_bytes")
    return client


def alone(link: Link) -> list[bytes]:
    return sorted(link.call("KEYS", keys.result(MODEL, "*")))


def lists(link: Link) -> list[bytes]:
    return sorted(link.call("KEYS", keys.results(MODEL, "*--")))


def value(client: Client, job: Sent) -> bytes | None:
    """What is kept of a job, as all who look for one find it."""
    link, intake = client.link, client.intake
    outcome = client.result(job.id)
    state, found = intake.read_locate(link.call(*intake.locate(job.id, job.lane, job.entry)))
    assert (state, found is not None) == (("done", True) if outcome else ("unknown", False))
    if outcome is None:
        return None
    watched = link.call(*Client(link).intake.watch(job.id))
    assert watched == found
    assert outcome.id == job.id
    return bytes(msgspec.msgpack.decode(outcome.data))


def test_results_of_one_settle_lie_in_one_list_a_hundred_ids_and_are_found_one_by_one(
    link: Link, client: Client, slot: Slot
) -> None:
    # given: numbers 10 to 209
    sent = client.submit(200)
    jobs = slot.claim(200)
    # when
    assert slot.settle(jobs, b"fine") == 200
    # then
    assert (alone(link), pending(link)) == ([], {})
    assert lists(link) == sorted(keys.results(MODEL, f"{client.name}-{n}").encode() for n in (10, 110, 209))
    assert [outcome.id for outcome in client.replies()] == [one.id for one in sent]
    assert {value(client, one) for one in sent} == {b"fine"}
    assert client.result(f"{client.name}-210") is None
    assert counted(link, "done", "bytes") == (200 + ALONE, 0)


def test_few_results_and_those_of_the_first_jobs_have_keys_of_their_own(link: Link, client: Client, slot: Slot) -> None:
    sent = client.submit(BUNCH - 1)
    other = Client(link)
    first = other.submit(BUNCH)
    slot.settle(slot.claim())
    assert (len(alone(link)), lists(link)) == (2 * BUNCH - 1, [])
    assert {value(client, one) for one in sent} | {value(other, one) for one in first} == {b"ok"}


def test_each_client_gets_its_own_though_their_jobs_came_in_turns(link: Link, client: Client, slot: Slot) -> None:
    # given
    other = Client(link)
    other.submit(ALONE)
    slot.settle(slot.claim())
    other.replies()
    sent: list[tuple[Client, Sent]] = []
    for _ in range(BUNCH):
        sent += [(one, job) for one in (client, other) for job in one.submit(1)]
    # when
    slot.settle(slot.claim())
    # then
    assert len(lists(link)) == 2
    for one in (client, other):
        assert [outcome.id for outcome in one.replies()] == [job.id for owner, job in sent if owner is one]
    assert {value(one, job) for one, job in sent} == {b"ok"}


def test_a_result_that_holds_the_id_of_another_is_not_taken_for_it(client: Client, slot: Slot) -> None:
    # given
    sent = client.submit(BUNCH)
    *rest, last = slot.claim()
    misleading = b"".join(one.id.encode() for one in sent)
    # when
    command = slot.queue.settle([*(Ended(job, done(job, misleading)) for job in rest), Ended(last, done(last, b"own"))])
    assert client.link.call(*command) == BUNCH
    # then
    assert [value(client, one) for one in sent] == [misleading] * (BUNCH - 1) + [b"own"]


def test_what_someone_else_ended_is_left_out_and_its_bytes_stay_counted_once(
    link: Link, client: Client, slot: Slot, other: Slot
) -> None:
    # given
    sent = client.submit(3 * BUNCH)
    jobs = slot.claim()
    other.settle(jobs[::3], b"first")
    # when
    assert slot.settle(jobs, b"second") == 2 * BUNCH
    # then
    assert [value(client, one) for one in sent] == [b"first", b"second", b"second"] * BUNCH
    assert len(client.replies()) == len(sent)
    assert counted(link, "done", "bytes") == (ALONE + len(sent), 0)


def test_what_is_not_stored_is_only_replied_and_what_is_large_stands_alone(
    link: Link, client: Client, slot: Slot
) -> None:
    # given: three kinds in one settle
    unstored, small, large = (client.submit(BUNCH, is_stored=is_stored) for is_stored in (False, True, True))
    jobs = slot.claim()
    ended = [Ended(job, done(job, b"x" * INLINE_LIMIT_BYTES * (at >= 2 * BUNCH))) for at, job in enumerate(jobs)]
    # when
    assert link.call(*slot.queue.settle(ended)) == len(jobs)
    # then
    assert sorted(outcome.id for outcome in client.replies()) == sorted(one.id for one in unstored + small + large)
    assert {value(client, one) for one in unstored} == {None}
    assert {value(client, one) for one in small} == {b""}
    assert {value(client, one) for one in large} == {b"x" * INLINE_LIMIT_BYTES}
    assert len(alone(link)) == BUNCH
    for one in large:
        assert link.call(*client.intake.large_result(one.id)) is not None
    assert counted(link, "bytes") == (0,)


def test_a_list_lives_as_long_as_the_longest_of_its_results_and_each_as_long_as_it_asked_for(
    link: Link, client: Client, slot: Slot
) -> None:
    # given
    longer, shorter = client.submit(BUNCH, ttl_s=50), client.submit(BUNCH, ttl_s=1)
    jobs = slot.claim()
    slot.settle(jobs[:BUNCH])
    slot.settle(jobs[BUNCH:])
    (key,) = lists(link)
    assert {value(client, one) for one in longer + shorter} == {b"ok"}
    # then
    assert 45_000 < link.call("PTTL", key) <= 50_000
    until = [at - now_ms(link) for _, _, at in bunches.read(link.call("LRANGE", key, 0, -1))]
    assert [round(ms / 1000) for ms in until] == [50] * BUNCH + [1] * BUNCH
    # when
    wait_until(lambda: client.result(shorter[0].id) is None, "its second is over")
    # then
    assert {value(client, one) for one in shorter} == {None}
    assert {value(client, one) for one in longer} == {b"ok"}
    # when: a later one lives longer
    client.submit(BUNCH, ttl_s=70)
    slot.settle(slot.claim())
    assert 65_000 < link.call("PTTL", key) <= 70_000


def test_stored_bytes_are_counted_and_leave_the_books_with_their_bucket(link: Link, client: Client, slot: Slot) -> None:
    # given
    client.submit(100, ttl_s=30)
    # when
    slot.settle(slot.claim(), b"r" * 100)
    # then
    (counted_bytes,) = counted(link, "stored_bytes")
    raw = link.call("HGETALL", keys.stored(MODEL))
    assert [int(size) for size in raw[1::2]] == [counted_bytes]
    assert int(raw[0]) * 10_000 >= now_ms(link) + 29_000
    frames = sum(len(link.call("LINDEX", key, 1)) for key in lists(link))
    assert frames < counted_bytes < frames + 2 * 300


def test_where_a_list_cannot_be_written_each_result_stands_alone_and_none_is_lost(
    link: Link, client: Client, slot: Slot
) -> None:
    # given: rights that are missing are played in test_rights_before
    sent = client.submit(BUNCH)
    link.call("SET", keys.results(MODEL, sent[0].id), "in the way", "PX", 60_000)
    # when
    assert slot.settle(slot.claim(), b"fine") == BUNCH
    # then
    assert len(alone(link)) == BUNCH
    assert [outcome.id for outcome in client.replies()] == [one.id for one in sent]
    assert {value(client, one) for one in sent} == {b"fine"}
    assert counted(link, "done", "bytes") == (ALONE + BUNCH, 0)


def test_while_somebody_watches_all_are_found_and_the_watcher_hears(link: Link, client: Client, slot: Slot) -> None:
    # given
    sent, curious = client.submit(BUNCH + 1), Client(link)
    assert link.call(*curious.intake.watch(sent[1].id)) is None
    # when
    slot.settle(slot.claim(), b"fine")
    # then: its own is stored alone, the others together
    assert [outcome.id for outcome in curious.replies()] == [sent[1].id]
    assert {value(client, one) for one in sent} == {b"fine"}
    assert (len(alone(link)), len(lists(link))) == (1, 1)
    assert sorted(outcome.id for outcome in client.replies()) == sorted(one.id for one in sent)


def test_a_job_that_was_delayed_once_costs_the_others_nothing_and_its_place_is_forgotten(
    link: Link, client: Client, slot: Slot
) -> None:
    # given: two jobs came back from a delay; one of them is settled by someone else, and waits again under its old place
    sent = client.submit(2 * BUNCH)
    jobs = slot.claim()
    places = {sent[0].id: "2 1-1", sent[1].id: "2 1-2", "other-1": "2 1-3"}
    link.call("HSET", keys.moved(MODEL), *(text for pair in places.items() for text in pair))
    link.call("PEXPIRE", keys.moved(MODEL), 60_000)
    link.call("XACK", slot.queue.lanes[1], keys.GROUP, jobs[1].entry)
    link.call("XDEL", slot.queue.lanes[1], jobs[1].entry)
    # when
    assert slot.settle(jobs, b"fine") == 2 * BUNCH - 1
    # then
    assert link.call("HKEYS", keys.moved(MODEL)) == [sent[1].id.encode(), b"other-1"]
    assert (alone(link), len(lists(link))) == ([], 1)


def test_thousands_of_jobs_are_settled_while_somebody_watches(link: Link, client: Client, slot: Slot) -> None:
    # given: more than Lua takes as arguments of one command at once
    for _ in range(9):
        client.submit(250)
    jobs, curious = slot.claim(2_250), Client(link)
    seen = [jobs[at] for at in (0, 999, 1_000, 2_249)]
    for job in seen:
        link.call(*curious.intake.watch(job.id))
    # when
    assert slot.settle(jobs) == len(jobs) == 2_250
    # then
    assert sorted(outcome.id for outcome in curious.replies()) == sorted(job.id for job in seen)
    assert link.call("EXISTS", keys.watchers(MODEL)) == 0
    assert len(client.replies()) == len(jobs)


def test_one_look_for_many_results_stops_at_4_mb(client: Client, slot: Slot) -> None:
    # given: 1 600 results of 4 KB
    ids = []
    for _ in range(8):
        ids += [one.id for one in client.submit(200)]
        slot.settle(slot.claim(200), b"r" * (INLINE_LIMIT_BYTES - 100))
    # when
    found = client.link.call(*client.intake.results(ids))
    # then: what came first, and no more than a list beyond
    count = sum(blob is not None for blob in found)
    assert all(found[:count])
    assert not any(found[count:])
    assert 4 << 20 <= count * (INLINE_LIMIT_BYTES - 50) < (4 << 20) + 101 * INLINE_LIMIT_BYTES
    assert client.result(ids[-1]) is not None


def test_results_are_stored_together_at_maxmemory_too(link: Link, client: Client, slot: Slot) -> None:
    sent = client.submit(BUNCH)
    jobs = slot.claim()
    link.call("CONFIG", "SET", "maxmemory", 1)
    try:
        assert slot.settle(jobs) == BUNCH
    finally:
        link.call("CONFIG", "SET", "maxmemory", 0)
    assert len(lists(link)) == 1
    assert {value(client, one) for one in sent} == {b"ok"}


def test_a_garbled_id_gets_no_reply_and_harms_nobody(link: Link, client: Client, slot: Slot) -> None:
    # given: ids that no client makes
    sent = client.submit(6)
    jobs: list[Job] = slot.claim()
    names = ["", "a", "ab", "abc-", "no dash in it", "-1"]
    garbled = [msgspec.structs.replace(job, id=name) for job, name in zip(jobs, names, strict=True)]
    # when
    assert slot.settle(garbled) == len(sent)
    # then
    assert client.replies() == []
    assert link.call("KEYS", keys.reply(MODEL, "*")) in ([], [keys.reply(MODEL, "abc").encode()])


def test_frames_that_are_cut_short_are_told() -> None:
    with pytest.raises(DecodeError, match="ends inside a frame"):
        bunches.find([b"5", FRAME.pack(9) + b"short"], "a-1", 1)
    assert bunches.find([], "a-1", 1) is None
    assert bunches.find([b"5"], "a-1", 1) is None
