"""The slot's loop on a real Redis with a torch-free engine: what happens to jobs when something goes wrong."""

from __future__ import annotations

import threading
from math import log2

import msgspec
import numpy as np
import pytest

from broker import keys
from broker.connection import Link
from broker.lease import lane_and_entry
from broker.messages import Kind, Status
from broker.queue import Queue
from broker.spec import ModelSpec, TensorSpec
from tests.wait import wait_until
from tests.workers.fakes import (
    KILLS,
    MODEL,
    RAISES,
    SPEC,
    Client,
    Doubler,
    LateEngine,
    RunningSlot,
    SilentEngine,
    first,
)
from workers import failures
from workers.exits import Exit


def test_jobs_of_all_lanes_are_answered_once_with_their_own_result(redis_url: str, client: Client) -> None:
    with RunningSlot(redis_url):
        ids = [one for lane in (1, 2, 3) for one in client.submit(*range(100), lane=lane)]
        outcomes = client.wait(ids)
    assert [first(one) for one in outcomes] == [2.0 * value for value in range(100)] * 3
    assert client.counters()["done"] == 300
    assert client.left() == (0, 0)


def test_timings_add_up_and_count_from_submit(redis_url: str, client: Client) -> None:
    client_ids: list[str]
    slot = RunningSlot(redis_url)
    client_ids = client.submit(1.0)
    with slot:
        (outcome,) = client.wait(client_ids)
    times = outcome.timings
    assert min(times.queue_ms, times.batch_wait_ms, times.forward_ms) >= 0
    assert times.total_ms >= times.queue_ms + times.forward_ms


def test_one_bad_job_in_64_fails_alone_and_costs_few_forwards(redis_url: str, client: Client) -> None:
    slot = RunningSlot(redis_url)
    values = [float(number) for number in range(100, 164)]
    values[37] = RAISES
    ids = client.submit(*values)
    with slot:
        outcomes = client.wait(ids)
    assert [one.status for one in outcomes].count(Status.FAILED) == 1
    assert outcomes[37].status is Status.FAILED
    assert outcomes[37].note == {"reason": "model_error", "error": "ValueError: thirteen"}
    assert [first(one) for at, one in enumerate(outcomes) if at != 37] == [2 * v for v in values if v != RAISES]
    assert len(slot.backend.batches) <= 2 * log2(64) + 1
    assert client.counters() | {"done": 63, "failed": 1} == client.counters()


def test_a_job_that_kills_engines_is_dead_at_the_third_and_its_batch_mates_are_answered(
    redis_url: str, client: Client
) -> None:
    backend = Doubler()
    first_life = RunningSlot(redis_url, backend=backend)
    ids = client.submit(1.0, 2.0, KILLS, 3.0)
    verdicts = []
    for life in (first_life, *(RunningSlot(redis_url, backend=backend) for _ in range(2))):
        life.thread.start()
        verdicts.append(life.join().exit)
    with RunningSlot(redis_url, backend=backend):
        outcomes = client.wait(ids)
    assert verdicts == [Exit.ENGINE_DIED] * 3
    assert [one.status for one in outcomes] == [Status.DONE, Status.DONE, Status.DEAD, Status.DONE]
    assert outcomes[2].note["reason"] == "engine_died"
    assert all(len(batch) == 1 for batch in backend.batches[1:]), "after the first death marked jobs run alone"
    assert backend.batches.count([KILLS]) + 1 == 3
    (entry,) = client.link.call("XRANGE", keys.dead(MODEL), "-", "+")
    assert b"engine_died" in entry[1]
    assert client.left() == (0, 0)


def test_draining_finishes_the_batch_and_returns_what_was_read_ahead_unharmed(redis_url: str, client: Client) -> None:
    backend, gate = Doubler(), threading.Event()
    slot = RunningSlot(redis_url, backend=backend)
    ids = client.submit(*(float(number) for number in range(100)))
    slot_left = threading.Event()

    def before() -> None:
        if not slot_left.is_set():
            slot_left.set()
            slot.slot.leave()
        gate.wait(10)

    backend.before = before
    slot.thread.start()
    assert slot_left.wait(10)
    gate.set()
    verdict = slot.join()
    assert verdict.exit is Exit.DRAINED
    done = client.counters()["done"]
    assert 0 < done < 100, "one batch was finished, the rest was not begun"
    leases = client.link.call("XPENDING", Queue(MODEL, "x").lanes[1], keys.GROUP, "-", "+", 1000)
    assert {(lease[1], lease[3]) for lease in leases} <= {(b"returned", 1)}, "returned, with no mark"
    backend.before = lambda: None
    with RunningSlot(redis_url, backend=backend):
        assert len(client.wait(ids)) == 100
    assert client.left() == (0, 0)


def test_rows_of_a_split_job_keep_their_order_when_a_neighbour_fails(redis_url: str, client: Client) -> None:
    slot = RunningSlot(redis_url, engine=LateEngine(SPEC, Doubler()))
    bad = np.full((32, 4), RAISES)
    rows = np.arange(4 * 100, dtype="float32").reshape(100, 4)
    ids = client.submit(bad, rows)
    with slot:
        outcomes = client.wait(ids)
    assert [one.status for one in outcomes] == [Status.FAILED, Status.DONE]
    assert (np.frombuffer(outcomes[1].data, "float32").reshape(100, 4) == rows * 2).all()


def test_a_job_of_many_rows_with_a_bad_one_fails_once_and_leaves_nothing_behind(redis_url: str, client: Client) -> None:
    rows = np.ones((200, 4))
    rows[70] = RAISES
    with RunningSlot(redis_url, engine=LateEngine(SPEC, Doubler())) as slot:
        (outcome,) = client.wait(client.submit(rows))
        assert outcome.status is Status.FAILED
        assert first(client.wait(client.submit(2.0))[0]) == 4.0
        wait_until(lambda: slot.board.jobs >= 2, "both are counted")
        assert slot.board.jobs == 2, "one job failed once, whatever its rows"
        assert slot.slot._runner._outcomes._parts == {}
    assert client.left() == (0, 0)


def test_a_poison_job_of_many_rows_is_dead_at_the_third_death_too(redis_url: str, client: Client) -> None:
    rows = np.ones((150, 4))
    rows[3] = KILLS
    first_life = RunningSlot(redis_url)
    ids = client.submit(rows)
    for life in (first_life, RunningSlot(redis_url), RunningSlot(redis_url)):
        life.thread.start()
        assert life.join().exit is Exit.ENGINE_DIED
    (outcome,) = client.wait(ids)
    assert outcome.status is Status.DEAD
    assert client.left() == (0, 0)


def _retries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    soon = msgspec.structs.replace(failures.POLICIES[failures.Kind.TRANSIENT], first_ms=1)
    monkeypatch.setitem(failures.POLICIES, failures.Kind.TRANSIENT, soon)


def test_a_transient_error_is_tried_again_and_counts_as_an_attempt(
    redis_url: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    _retries_at_once(monkeypatch)
    backend = Doubler()
    fails = iter([ConnectionError("the feature store is away")])

    def before() -> None:
        for error in fails:
            raise error

    backend.before = before
    with RunningSlot(redis_url, backend=backend) as slot:
        ids = client.submit(3.0, retries=2)
        wait_until(lambda: client.link.call(*slot.queue.move()) == 1, "the job is due again")  # the beat's part
        (outcome,) = client.wait(ids)
    assert (first(outcome), outcome.attempt) == (6.0, 2)


def test_a_lease_swept_away_and_claimed_again_by_its_holder_runs_once(
    redis_url: str, client: Client, link: Link
) -> None:
    backend, gate = Doubler(), threading.Event()
    begun = threading.Event()

    def before() -> None:
        begun.set()
        gate.wait(10)

    backend.before = before
    with RunningSlot(redis_url, engine=LateEngine(SPEC, backend)) as slot:
        ids = client.submit(*range(150))
        assert begun.wait(10)
        wait_until(lambda: len(slot.board.held) > 64, "one batch runs, more are in hand")
        held = [lane_and_entry(lease) for lease in slot.board.held]
        link.call(*Queue(MODEL, slot.queue.consumer).give_back(held, marks=1))  # what another slot's sweep does
        gate.set()
        outcomes = client.wait(ids)
        assert [first(one) for one in outcomes] == [2.0 * value for value in range(150)]
    assert client.counters()["done"] == 150
    assert client.left() == (0, 0)


def test_a_job_of_many_rows_is_answered_as_one(redis_url: str, client: Client) -> None:
    rows = np.arange(4 * 150, dtype="float32").reshape(150, 4)
    with RunningSlot(redis_url):
        (outcome,) = client.wait(client.submit(rows))
    assert (outcome.rows, outcome.is_one_row) == (150, False)
    assert (np.frombuffer(outcome.data, "float32").reshape(150, 4) == rows * 2).all()
    assert client.counters()["done"] == 1


def test_losing_the_connection_costs_no_job_and_answers_none_twice(redis_url: str, client: Client, link: Link) -> None:
    backend = Doubler()
    with RunningSlot(redis_url, backend=backend) as slot:
        ids: list[str] = []
        for turn in range(30):
            ids += client.submit(*(float(number) for number in range(50)))
            if turn % 3 == 0:
                victim = slot.link.fileno()
                for line in link.call("CLIENT", "LIST").decode().splitlines():
                    if "cmd=evalsha" in line or "cmd=xreadgroup" in line:
                        fields = dict(part.split("=", 1) for part in line.split())
                        if fields["name"] == "" and victim >= 0 and fields["cmd"] == "xreadgroup":
                            link.call("CLIENT", "KILL", "ID", fields["id"])
        outcomes = client.wait(ids)
    assert len(outcomes) == 1500
    assert client.counters()["done"] == 1500
    assert client.left() == (0, 0)


def test_a_flushed_redis_gets_its_groups_and_spec_back(redis_url: str, client: Client, link: Link) -> None:
    with RunningSlot(redis_url) as slot:
        client.wait(client.submit(1.0))
        for _ in range(5):  # while it works, so that answers are under way
            client.submit(*range(200))
            restored = slot.restored
            link.call("FLUSHALL")
            wait_until(lambda: slot.restored > restored, "the slot publishes again")  # noqa: B023 - called in this turn
            client.outcomes.clear()
            (outcome,) = client.wait(client.submit(5.0))
            assert first(outcome) == 10.0


def test_forgotten_scripts_are_loaded_again(redis_url: str, client: Client, link: Link) -> None:
    with RunningSlot(redis_url) as slot:
        (first_id,) = client.submit(1.0)
        client.wait([first_id])
        job = link.call("XRANGE", slot.queue.lanes[1], "-", "+")
        assert job == []
        blob = client.blob(4.0, "cli-900")
        link.call("SCRIPT", "FLUSH")
        link.call("XADD", slot.queue.lanes[1], "*", "b", blob)  # no script, so only the slot can have loaded them again
        (outcome,) = client.wait(["cli-900"])
    assert first(outcome) == 8.0


def test_a_lease_the_slot_never_saw_is_given_back_and_run(redis_url: str, client: Client, link: Link) -> None:
    slot = RunningSlot(redis_url, lease_s=0.4)
    ids = client.submit(7.0)
    ghost = link.call(
        "XREADGROUP", "GROUP", keys.GROUP, slot.queue.consumer, "COUNT", 1, "STREAMS", slot.queue.lanes[1], ">"
    )
    assert ghost, "delivered to the slot's consumer on a connection that is not the slot's"
    with slot:
        (outcome,) = client.wait(ids)
    assert first(outcome) == 14.0


def test_garbled_bytes_are_buried_with_the_reason_and_the_next_job_is_served(
    redis_url: str, client: Client, link: Link
) -> None:
    with RunningSlot(redis_url) as slot:
        link.call("XADD", slot.queue.lanes[1], "*", "b", b"\x01\x00\x05\x00garbage that is no job")
        link.call("XADD", slot.queue.lanes[1], "*", "b", b"\x07")
        assert first(client.wait(client.submit(3.0))[0]) == 6.0
        wait_until(lambda: link.call("XLEN", keys.dead(MODEL)) == 2, "both are dead letters")
    assert client.left() == (0, 0)


def test_a_job_that_does_not_fit_the_model_fails_with_the_reason(redis_url: str, client: Client) -> None:
    with RunningSlot(redis_url):
        wrong, right = client.submit(np.zeros((1, 5)), 2.0)
        outcomes = client.wait([wrong, right])
    assert outcomes[0].status is Status.FAILED
    assert outcomes[0].note["reason"] == "invalid_input"
    assert "must be float32[4] per row" in outcomes[0].note["error"]
    assert first(outcomes[1]) == 4.0


def test_a_deadline_that_passes_in_the_queue_expires_the_job_unrun(redis_url: str, client: Client) -> None:
    slot = RunningSlot(redis_url)
    ids = client.submit(1.0, deadline_ms=1) + client.submit(2.0, deadline_ms=60_000)
    wait_until(lambda: _age_ms(client, ids[0]) > 5, "the deadline is past")
    with slot:
        outcomes = client.wait(ids)
    assert [one.status for one in outcomes] == [Status.EXPIRED, Status.DONE]
    assert [value for batch in slot.backend.batches for value in batch] == [2.0]


def _age_ms(client: Client, _: str) -> float:
    seconds, micros = client.link.call("TIME")
    (entry, _fields), *_rest = client.link.call("XRANGE", Queue(MODEL, "x").lanes[1], "-", "+")
    return int(seconds) * 1e3 + int(micros) / 1e3 - int(entry.partition(b"-")[0])


def test_a_silent_engine_is_killed_and_its_batch_marked(redis_url: str, client: Client) -> None:
    engine = SilentEngine(SPEC, Doubler())
    slot = RunningSlot(redis_url, engine=engine, hang_floor_s=0.2)
    ids = client.submit(1.0)
    slot.thread.start()
    verdict = slot.join()
    assert verdict.exit is Exit.HANG
    assert engine.was_killed
    (lease,) = client.link.call("XPENDING", slot.queue.lanes[1], keys.GROUP, "-", "+", 10)
    assert (lease[1], lease[3]) == (b"returned", 2)
    with RunningSlot(redis_url):
        assert first(client.wait(ids)[0]) == 2.0


def test_a_slot_at_its_job_limit_retires_only_while_another_is_ready(
    redis_url: str, client: Client, link: Link
) -> None:
    link.call("HSET", keys.wanted(MODEL), "h", 2)
    slot = RunningSlot(redis_url, retire={"max_jobs": 10})
    with slot:
        client.wait(client.submit(*range(20)))
        client.wait(client.submit(*range(5)))
        assert slot.verdict is None, "no other slot is ready, so it goes on"
        seconds, _ = link.call("TIME")
        link.call("ZADD", keys.ready(MODEL), int(seconds) * 1000 + 60_000, "other/1")
        wait_until(lambda: slot.verdict is not None, "the slot retires")
    assert slot.verdict is not None
    assert slot.verdict.exit is Exit.MAX_JOBS


def test_jobs_that_come_one_by_one_wait_for_no_timer(redis_url: str, client: Client) -> None:
    eager = Doubler()
    with RunningSlot(redis_url, backend=eager, max_wait_ms=2000.0):
        for number in range(5):
            (outcome,) = client.wait(client.submit(float(number)))
            assert outcome.timings.total_ms < 1500
    assert len(eager.batches) == 5


RAW = ModelSpec(
    name=MODEL, version="1", takes="bytes", inputs=(TensorSpec("x", "float32", (4,)),),
    outputs=(TensorSpec("y", "float32", (4,)),), max_rows=64, has_postprocess=True,
)  # fmt: skip


class Lengths:
    """Takes the length of each item; refuses empty ones."""

    @staticmethod
    def preprocess(items: list[bytes]) -> list[object]:
        return [{"x": np.full(4, len(item), "float32")} if item else ValueError("empty item") for item in items]

    @staticmethod
    def postprocess(outputs: dict[str, np.ndarray], rows: int) -> list[dict[str, float]]:
        return [{"twice": float(value)} for value in outputs["y"][:rows, 0]]


def test_raw_items_go_through_the_pipeline_and_a_refused_one_fails_alone(redis_url: str, link: Link) -> None:
    slot = RunningSlot(redis_url, model=RAW, pipeline=Lengths)
    client = Client(redis_url, RAW)
    with slot:
        outcomes = client.wait(client.submit(b"four", b"", b"seventeen letters", kind=Kind.BYTES))
    client.link.close()
    assert [one.status for one in outcomes] == [Status.DONE, Status.FAILED, Status.DONE]
    assert outcomes[1].note == {"reason": "input_error", "error": "ValueError: empty item"}
    assert msgspec.msgpack.decode(outcomes[2].data) == {"twice": 34.0}
    assert outcomes[2].note["is_value"]


class Careless:
    """Makes of each item what its text says."""

    @staticmethod
    def preprocess(items: list[bytes]) -> list[object]:
        made = {
            b"short": {"x": np.ones(2, "float32")},
            b"scalar": {"x": 1.0},
            b"nothing": {},
            b"none": None,
            b"text": {"x": np.array(["a"] * 4)},
            b"nan": {"x": np.full(4, np.nan, "float32")},
        }
        return [made.get(item, {"x": np.ones(4, "float32")}) for item in items]


def test_what_preprocess_makes_is_checked_item_by_item(redis_url: str, link: Link) -> None:
    model = msgspec.structs.replace(RAW, inputs=(TensorSpec("x", "float32", (4,), finite=True),), has_postprocess=False)
    slot = RunningSlot(redis_url, model=model, pipeline=Careless)
    client = Client(redis_url, model)
    items = [b"short", b"good", b"scalar", b"nothing", b"none", b"text", b"nan", b"good too"]
    with slot:
        outcomes = client.wait(client.submit(*items, kind=Kind.BYTES))
    client.link.close()
    assert [one.status is Status.DONE for one in outcomes] == [item.startswith(b"good") for item in items]
    assert {one.note["reason"] for one in outcomes if one.status is Status.FAILED} == {"input_error"}
    assert outcomes[0].note["error"] == (
        "ValueError: preprocess gave 'x' as float32 [2], the manifest says float32 [4]"
    )
    assert len(slot.backend.batches) <= 2, "one forward for all, none to look for the culprit"
