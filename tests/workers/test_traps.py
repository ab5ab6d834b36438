"""Each trap that a peer fell into, as a regression test: here, or where the table says. The last test holds the table to be true.

| trap (seen in)                                        | test                                                                                     |
|-------------------------------------------------------|------------------------------------------------------------------------------------------|
| last in, first out under backlog (Bento)              | test_a_backlog_is_run_in_the_order_it_was_submitted                                      |
| a batch larger than the limit (Bento, RedisAI)        | test_a_batch_never_has_more_rows_than_the_cap_of_its_shape                               |
| a late head makes the batch small (RedisAI, Clipper)  | test_late_jobs_make_no_batch_small_and_are_given_up_while_others_fill_it                 |
| the wait begins anew at local receipt (MOSEC, LitServe) | test_a_job_that_waited_in_redis_does_not_wait_again                                    |
| a burst split over idle workers (MOSEC, LitServe)     | test_a_burst_goes_to_one_idle_slot_as_one_batch                                          |
| an idle worker spins (LitServe)                       | test_an_idle_slot_sleeps                                                                 |
| strict priority starves (Triton)                      | test_each_lane_that_waits_begins_one_of_nine_batches_however_full_the_others_are         |
| a client's timeout without a server's is ignored (Triton) | test_a_deadline_that_passes_in_the_queue_expires_the_job_unrun                       |
| another shape at the head ends batching (Triton)      | test_a_job_of_another_shape_at_the_head_does_not_end_batching                            |
| in flight and lost on SIGKILL (MOSEC)                 | test_kill_9_of_a_slot_and_of_an_engine_loses_nothing_and_answers_nothing_twice           |
| a result read by the wrong replica (llm-d)            | test_clients_that_wait_at_once_get_their_own_results                                     |
| a result published before anybody listens             | test_a_watcher_who_comes_late_gets_the_stored_outcome_at_once                            |
| an exception leaves a job in progress (Bento)         | test_a_model_that_raises_fails_the_bad_job_only                                          |
| a limit of calls under way caps the batch (Ray)       | test_one_client_can_fill_a_batch                                                         |
| scaling down kills a worker that loads (sie)          | test_the_old_slot_is_stopped_only_when_the_spare_is_ready                                |
| ready with a poisoned device (Triton, infinity)       | test_nothing_more_is_asked_of_a_poisoned_engine_and_what_was_read_ahead_is_returned_unharmed |
| metrics wrong across processes (LitServe)             | test_counters_are_of_the_pool_and_not_of_one_process                                     |
| a GET per request to poll (boom)                      | test_a_result_is_waited_for_without_polling                                              |
| jobs taken for rows in the cost of a batch (Bento)    | test_t_counts_rows_and_not_jobs                                                          |
| a probe that measures only the control thread (Ray)   | test_a_loop_that_makes_no_progress_is_not_ready_and_its_leases_are_not_renewed           |
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from broker.connection import Link
from producer import Producer
from tests.wait import wait_until
from tests.workers.fakes import MODEL, ROW_BUCKETS, SPEC, Client, Doubler, LateEngine, RunningSlot, first
from tests.workers.test_batcher import VARYING, batcher, ids, job
from workers.exchange import Timed
from workers.timetable import KEPT, Timetable

TESTS = Path(__file__).parent.parent


def calls(link: Link) -> dict[str, int]:
    """Redis commands by name since its start."""
    lines = link.call("INFO", "commandstats").decode().splitlines()
    found = (re.match(r"cmdstat_([^:]+):calls=(\d+)", line) for line in lines)
    return {one[1].lower(): int(one[2]) for one in found if one is not None}


def test_a_backlog_is_run_in_the_order_it_was_submitted(redis_url: str, client: Client) -> None:
    slot = RunningSlot(redis_url)
    values = [float(number) for number in range(1, 301)]
    sent = client.submit(*values[:200]) + client.submit(*values[200:])
    with slot:
        client.wait(sent)
    assert [value for batch in slot.backend.batches for value in batch if value] == values, "but for the padding"


@contextlib.contextmanager
def held_up(slot: RunningSlot) -> Iterator[None]:
    """The slot's loop stands still before it talks to Redis again."""
    stands, go, talk = threading.Event(), threading.Event(), slot.slot._talk

    def stand() -> None:
        stands.set()
        assert go.wait(10)
        talk()

    slot.slot._talk = stand  # type: ignore[method-assign]
    slot.slot._doorbell.ring()
    assert stands.wait(10)
    try:
        yield
    finally:
        slot.slot._talk = talk  # type: ignore[method-assign]
        go.set()


def test_a_job_that_waited_in_redis_does_not_wait_again(redis_url: str, client: Client) -> None:
    # given: a slot that waits for company, since three jobs come together after each forward
    times = [Timed(rows, (), 3000.0) for rows in ROW_BUCKETS for _ in range(KEPT)]
    with RunningSlot(redis_url, max_wait_ms=600.0, timetable=Timetable(times, floor_s=60.0, factor=20.0)) as slot:
        waiting = slot.slot._pacing._waiting
        for _ in range(20):
            client.wait(client.submit(1.0, 2.0, 3.0))
            wait_until(lambda: slot.slot._leases.redis_ms() > waiting._now.began_ms + 1, "the window is open")
            if waiting.expected > 2:
                break
        (outcome,) = client.wait(client.submit(4.0))
        assert outcome.timings.batch_wait_ms > 300, "one that is received at once waits for the others"
        # when: one is submitted as the window opens, and waits in Redis until it is over
        client.wait(client.submit(5.0, 6.0, 7.0))
        with held_up(slot):
            sent = client.submit(8.0)
            ends_ms = waiting._now.began_ms + waiting._now.length_ms
            wait_until(lambda: slot.slot._leases.redis_ms() > ends_ms, "the window is over")
        # then
        (outcome,) = client.wait(sent)
    assert outcome.timings.queue_ms > 300
    assert outcome.timings.batch_wait_ms < 300, "its wait was over before it came"


def test_an_idle_slot_sleeps(redis_url: str, client: Client, link: Link) -> None:
    with RunningSlot(redis_url, block_ms=100) as slot:
        client.wait(client.submit(1.0))
        wait_until(lambda: slot.slot._leases.claimer.is_blocked, "the slot is idle")
        before, turns = calls(link), slot.slot._runner.check_hang
        count = 0

        def counted() -> None:
            nonlocal count
            count += 1
            turns()

        slot.slot._runner.check_hang = counted  # type: ignore[method-assign]
        time.sleep(0.5)
        after = calls(link)
    sent = sum(after[name] - before.get(name, 0) for name in after if name in ("xreadgroup", "evalsha", "xpending"))
    assert count <= 40, "turns of the loop in half a second; five reads end in it, and the script looks twice"
    assert sent <= 40


def test_a_job_of_another_shape_at_the_head_does_not_end_batching() -> None:
    parts = batcher(VARYING)
    jobs = [job(seq=16), *[job(seq=4) for _ in range(4)], job(seq=16)]
    parts.add(jobs)
    assert ids(parts.pack()) == [jobs[0].id, jobs[5].id], "those behind the others join it"
    assert ids(parts.pack()) == [one.id for one in jobs[1:5]]


def test_clients_that_wait_at_once_get_their_own_results(redis_url: str, link: Link) -> None:
    clients = [Client(redis_url, client=f"client{number}") for number in range(3)]
    with RunningSlot(redis_url):
        sent = [one.submit(*(100.0 * at + number for number in range(40))) for at, one in enumerate(clients)]
        for at, one in enumerate(clients):
            assert [first(outcome) for outcome in one.wait(sent[at])] == [2 * (100.0 * at + n) for n in range(40)]
    for one in clients:
        one.link.close()


def test_one_client_can_fill_a_batch(redis_url: str, client: Client) -> None:
    gate, begun, backend = threading.Event(), threading.Event(), Doubler()
    backend.before = lambda: (begun.set(), gate.wait(10))  # type: ignore[assignment, func-returns-value]
    with RunningSlot(redis_url, engine=LateEngine(SPEC, backend)) as slot:
        sent = client.submit(1.0)
        assert begun.wait(10)
        sent += [one for _ in range(64) for one in client.submit(2.0)]
        assert len(slot.board.held) <= 65
        gate.set()
        client.wait(sent)
    assert max(map(len, backend.batches)) == 64


def test_counters_are_of_the_pool_and_not_of_one_process(redis_url: str, client: Client, link: Link) -> None:
    with RunningSlot(redis_url, name="h/0"), RunningSlot(redis_url, name="h/1"):
        for _ in range(10):
            client.wait(client.submit(*range(20)))
    assert client.counters()["done"] == 200


def test_a_result_is_waited_for_without_polling(redis_url: str, link: Link) -> None:
    backend = Doubler()
    backend.before = lambda: time.sleep(0.1)
    with RunningSlot(redis_url, engine=LateEngine(SPEC, backend)), Producer(redis_url) as producer:
        producer.infer(MODEL, np.ones(4, "float32"), 5)
        before = calls(link)
        for _ in range(3):
            producer.infer(MODEL, np.ones(4, "float32"), 5)
        after = calls(link)
    assert after.get("get", 0) - before.get("get", 0) <= 6, "two looks a submit for its key are none for its result"
    assert after.get("blpop", 0) - before.get("blpop", 0) <= 12, "300 ms of waiting"


def test_t_counts_rows_and_not_jobs(redis_url: str, client: Client) -> None:
    timetable = Timetable(floor_s=60.0, factor=20.0)
    with RunningSlot(redis_url, timetable=timetable):
        client.wait(client.submit(np.ones((50, 4)), 1.0))
    assert {size.rows for size in timetable.learned()} <= {1, 64}
    assert 64 in {size.rows for size in timetable.learned()}, "two jobs, 51 rows"


def test_every_trap_names_a_test_that_exists() -> None:
    rows = re.findall(r"^\| .*\| (test_\w+) +\|$", __doc__ or "", re.MULTILINE)
    assert len(rows) == 20
    found = set(
        re.findall(r"^def (test_\w+)", "\n".join(path.read_text() for path in TESTS.rglob("test_*.py")), re.MULTILINE)
    )
    assert set(rows) - found == set()
