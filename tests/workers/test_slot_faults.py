"""Poison, out of memory and broken devices under a slot: only who is at fault pays, and the next forward is safe.

The errors are torch's own, raised by a torch-free model; everything but the model is the real thing.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2

import msgspec
import numpy as np
import pytest

from broker import caps, keys
from broker.connection import Command, Link
from broker.messages import Kind, Status
from broker.queue import Queue
from broker.spec import ModelSpec, TensorSpec
from tests.wait import wait_until
from tests.workers.fakes import (
    DEVICE,
    MODEL,
    RAISES,
    ROW_BUCKETS,
    SPEC,
    Arrays,
    Client,
    Doubler,
    LateEngine,
    RunningSlot,
    first,
)
from workers import failures
from workers.caps import Caps
from workers.exits import Exit

torch = pytest.importorskip("torch", reason="needs the workers extra")

POISONS, HUGE = -700.0, -2.0  # a row that starts with one of these breaks the device, or never fits
ASSERT = "CUDA error: device-side assert triggered\nSearch for `cudaErrorAssert' in https://docs.nvidia.com for more."
BOUND = 2 * log2(64) + 1


class Device(Doubler):
    """Doubles, on a device that holds `room` rows and breaks under a poison row."""

    def __init__(self, room: int = 64, error: Callable[[], Exception] = lambda: torch.AcceleratorError(ASSERT)) -> None:
        super().__init__()
        self.room = room
        self.error = error

    def run(self, inputs: Arrays) -> Arrays:
        x = inputs["x"]
        if len(x) > self.room or (x[:, 0] == HUGE).any():
            self.batches.append([float(value) for value in x[:, 0]])
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(x)} GiB")
        if (x[:, 0] == POISONS).any():
            self.batches.append([float(value) for value in x[:, 0]])
            self.before()
            raise self.error()
        return super().run(inputs)

    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


class Lingering(LateEngine):
    """An engine that stays when its device broke; notes that it was killed."""

    was_killed = False

    def kill(self) -> bool:
        self.was_killed = True
        return True


def values(*bad: tuple[int, float]) -> list[float]:
    """64 rows, some of them bad: (place, value)."""
    rows = [float(number) for number in range(100, 164)]
    for place, value in bad:
        rows[place] = value
    return rows


def live(redis_url: str, backend: Doubler) -> RunningSlot:
    """A life that ends by itself."""
    life = RunningSlot(redis_url, backend=backend)
    life.thread.start()
    life.join()
    return life


# --- poison -----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 31, 63])
def test_one_bad_job_in_64_costs_13_forwards_wherever_it_is(redis_url: str, client: Client, place: int) -> None:
    slot = RunningSlot(redis_url)
    rows = values((place, RAISES))
    ids = client.submit(*rows)
    with slot:
        outcomes = client.wait(ids)
    assert [at for at, one in enumerate(outcomes) if one.status is Status.FAILED] == [place]
    assert [first(one) for one in outcomes if one.status is Status.DONE] == [2 * v for v in rows if v != RAISES]
    assert len(slot.backend.batches) == BOUND


@pytest.mark.parametrize("places", [(3, 4), (0, 63), (20, 50)])
def test_two_bad_jobs_in_64_are_both_found_and_nobody_else_fails(
    redis_url: str, client: Client, places: tuple[int, int]
) -> None:
    slot = RunningSlot(redis_url)
    ids = client.submit(*values(*((place, RAISES) for place in places)))
    with slot:
        outcomes = client.wait(ids)
    assert tuple(at for at, one in enumerate(outcomes) if one.status is Status.FAILED) == places
    assert all(one.status is Status.DONE for at, one in enumerate(outcomes) if at not in places)
    assert len(slot.backend.batches) <= 2 * BOUND - 1
    assert client.left() == (0, 0)


# --- a broken device --------------------------------------------------------------------------


def test_a_job_that_breaks_the_device_runs_alone_then_and_is_dead_at_the_third_time(
    redis_url: str, client: Client, link: Link
) -> None:
    backend = Device()
    first_life = RunningSlot(redis_url, backend=backend)
    ids = client.submit(1.0, 2.0, POISONS, 3.0)
    first_life.thread.start()
    lives = [first_life.join(), *(live(redis_url, backend).join() for _ in range(2))]
    with RunningSlot(redis_url, backend=backend):
        outcomes = client.wait(ids)
    assert [verdict.exit for verdict in lives] == [Exit.DEVICE_FAULT] * 3
    assert "cudaErrorAssert (710): AcceleratorError: CUDA error: device-side assert" in lives[0].detail
    assert "\n" not in lives[0].detail
    assert [one.status for one in outcomes] == [Status.DONE, Status.DONE, Status.DEAD, Status.DONE]
    assert outcomes[2].note["reason"] == "device_fault"
    assert [batch for batch in backend.batches if POISONS in batch][1:] == [[POISONS]] * 2, "marked jobs run alone"
    assert all(len(batch) == 1 for batch in backend.batches[1:]), "so do those that were marked with it"
    (entry,) = link.call("XRANGE", keys.dead(MODEL), "-", "+")
    assert b"device_fault" in entry[1]
    assert client.left() == (0, 0)


def test_nothing_more_is_asked_of_a_poisoned_engine_and_what_was_read_ahead_is_returned_unharmed(
    redis_url: str, client: Client, link: Link
) -> None:
    backend = Device()
    engine = Lingering(SPEC, backend)
    slot = RunningSlot(redis_url, engine=engine)
    backend.before = lambda: wait_until(lambda: len(slot.board.held) > 64, "jobs were read ahead")
    client.submit(POISONS, *range(89))  # too few behind the first batch for a second one to be sent ahead
    slot.thread.start()
    assert slot.join().exit is Exit.DEVICE_FAULT
    engine.close()
    assert engine.was_killed
    assert len(backend.batches) == 1
    leases = link.call("XPENDING", slot.queue.lanes[1], keys.GROUP, "-", "+", 1000)
    assert {lease[1] for lease in leases} == {b"returned"}
    marks = [lease[3] for lease in leases]
    assert (marks.count(2), set(marks)) == (64, {1, 2}), "its batch is marked, the rest is not"


def test_an_engine_that_breaks_with_the_next_batch_in_hand_loses_none(redis_url: str, client: Client) -> None:
    backend = Device()
    slot = RunningSlot(redis_url, engine=LateEngine(SPEC, backend))
    ids = client.submit(POISONS, *range(264))
    backend.before = lambda: wait_until(lambda: len(slot.board.held) == 128, "the next batch is in hand")
    slot.thread.start()
    assert slot.join().exit is Exit.DEVICE_FAULT
    slot.engine.close()
    backend.before = lambda: None
    for _ in range(2):
        live(redis_url, backend)
    with RunningSlot(redis_url, backend=backend):
        outcomes = client.wait(ids)
    assert [one.status for one in outcomes].count(Status.DONE) == 264
    assert client.left() == (0, 0)


@pytest.mark.parametrize("is_sound", [True, False])
def test_an_unknown_error_is_the_models_while_a_kernel_still_runs(
    redis_url: str, client: Client, is_sound: bool
) -> None:
    backend = Device(error=lambda: RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"))
    backend.is_sound = is_sound
    slot = RunningSlot(redis_url, backend=backend)
    ids = client.submit(POISONS)
    if is_sound:
        with slot:
            (outcome,) = client.wait(ids)
        assert (outcome.status, outcome.note["reason"]) == (Status.FAILED, "model_error")
    else:
        slot.thread.start()
        assert slot.join().exit is Exit.DEVICE_FAULT
    assert backend.probes == 1


# --- out of memory ----------------------------------------------------------------------------


def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_the_cap_is_kept(redis_url: str, client: Client) -> None:
    backend = Device(room=8)
    slot = RunningSlot(redis_url, backend=backend)
    ids = client.submit(*values())
    with slot:
        outcomes = client.wait(ids)
        refused = [size for size in backend.sizes() if size > 8]
        assert [first(one) for one in outcomes] == [2 * value for value in values()]
        assert len(refused) == backend.freed == 7, "1 of 64, 2 of 32, 4 of 16"
        wait_until(lambda: caps.load(client.link, MODEL, DEVICE), "the cap is shared")
        del backend.batches[:]
        client.wait(client.submit(*values()))
        assert max(backend.sizes()) == 8, "no batch runs into it again"
    known = caps.load(client.link, MODEL, DEVICE)
    assert known[()].rows == 8
    later = Device(room=8)
    with RunningSlot(redis_url, backend=later, caps=Caps(ROW_BUCKETS, known)):
        client.wait(client.submit(*values()))
    assert max(later.sizes()) == 8, "nor does the next life"


def test_a_job_of_many_rows_is_cut_where_it_does_not_fit_and_answered_as_one(redis_url: str, client: Client) -> None:
    rows = np.arange(4 * 150, dtype="float32").reshape(150, 4)
    with RunningSlot(redis_url, engine=LateEngine(SPEC, Device(room=4))) as slot:
        (outcome,) = client.wait(client.submit(rows))
        assert slot.slot._runner._outcomes._parts == {}
    assert (np.frombuffer(outcome.data, "float32").reshape(150, 4) == rows * 2).all()
    assert client.counters()["done"] == 1


@pytest.mark.parametrize("place", [0, 40, 63])
def test_a_row_that_does_not_fit_alone_is_dead_and_leaves_no_cap_behind(
    redis_url: str, client: Client, link: Link, place: int
) -> None:
    backend = Device()
    slot = RunningSlot(redis_url, backend=backend)
    ids = client.submit(*values((place, HUGE)))
    with slot:
        outcomes = client.wait(ids)
        assert len(backend.batches) == BOUND + 1, "and one more to see that the device has room for others"
        client.wait(client.submit(*values()))
        assert max(backend.sizes()[-2:]) > 1, "what one job did costs the others nothing"
    assert [at for at, one in enumerate(outcomes) if one.status is not Status.DONE] == [place]
    assert (outcomes[place].status, outcomes[place].note["reason"]) == (Status.DEAD, "does_not_fit")
    assert "CUDA out of memory" in outcomes[place].note["error"]
    ((_, fields),) = link.call("XRANGE", keys.dead(MODEL), "-", "+")
    assert b"does_not_fit" in fields
    assert caps.load(link, MODEL, DEVICE) == {}


def test_on_a_device_that_another_process_has_filled_no_job_dies_and_none_is_marked(
    redis_url: str, client: Client, link: Link
) -> None:
    backend = Device(room=0)
    slot = RunningSlot(redis_url, backend=backend)
    ids = client.submit(*values())
    slot.thread.start()
    verdict = slot.join()
    assert verdict.exit is Exit.DEVICE_FAULT
    assert "the device is full: OutOfMemoryError: CUDA out of memory" in verdict.detail
    leases = link.call("XPENDING", slot.queue.lanes[1], keys.GROUP, "-", "+", 1000)
    assert {(lease[1], lease[3]) for lease in leases} == {(b"returned", 1)}
    assert len(leases) == 64
    with RunningSlot(redis_url, backend=Device()):
        assert {one.status for one in client.wait(ids)} == {Status.DONE}


@pytest.mark.parametrize(
    ("text", "deliveries"),
    [("uncorrectable ECC error encountered", 1), ("an illegal memory access was encountered", 2)],
)
def test_a_device_whose_hardware_fails_marks_no_job(
    redis_url: str, client: Client, link: Link, text: str, deliveries: int
) -> None:
    backend = Device(error=lambda: torch.AcceleratorError(f"CUDA error: {text}"))
    slot = RunningSlot(redis_url, backend=backend)
    ids = client.submit(*values((5, POISONS)))
    slot.thread.start()
    verdict = slot.join()
    assert verdict.exit is Exit.DEVICE_FAULT
    assert "the device failed: " in verdict.detail
    leases = link.call("XPENDING", slot.queue.lanes[1], keys.GROUP, "-", "+", 1000)
    assert {(lease[1], lease[3]) for lease in leases} == {(b"returned", deliveries)}
    assert len(leases) == len(ids)


def test_a_job_that_was_given_up_here_and_is_claimed_again_is_answered(
    redis_url: str, client: Client, link: Link
) -> None:
    """Its lease was swept while it failed, so that nobody was told; the same slot gets it next, and now it succeeds."""
    backend = Doubler()

    def before() -> None:
        backend.before = lambda: None
        assert link.call(*Queue(MODEL, "sweeper").sweep(lease_ms=0))[0] == 1
        raise ValueError("this once")

    backend.before = before
    with RunningSlot(redis_url, backend=backend):
        (outcome,) = client.wait(client.submit(np.full((2, 4), 3.0)))
    assert outcome.status is Status.DONE
    assert client.left() == (0, 0)


def test_what_was_learned_of_a_devices_memory_is_told_again_when_the_connection_breaks(
    redis_url: str, client: Client, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = RunningSlot(redis_url, engine=LateEngine(SPEC, Device(room=8)))
    send, broken = Link.send, []

    def breaking(self: Link, *commands: Command) -> None:
        if self is slot.link and not broken and any(keys.caps(MODEL) in command for command in commands):
            broken.append(True)
            self.close()
            raise ConnectionResetError("lost")
        send(self, *commands)

    monkeypatch.setattr(Link, "send", breaking)
    with slot:
        client.wait(client.submit(*values()))
        wait_until(lambda: caps.load(link, MODEL, DEVICE), "the others know")
    assert broken


def test_neighbours_that_share_a_part_with_a_job_that_does_not_fit_are_answered(redis_url: str, client: Client) -> None:
    big = np.full((40, 4), 1.0)
    big[3] = HUGE
    slot = RunningSlot(redis_url, engine=LateEngine(SPEC, Device()))
    ids = client.submit(big, *range(24))
    with slot:
        outcomes = client.wait(ids)
        wait_until(lambda: slot.board.jobs >= 25, "all are counted")
        assert slot.board.jobs == 25
    assert outcomes[0].note["reason"] == "does_not_fit"
    assert [first(one) for one in outcomes[1:]] == [2.0 * value for value in range(24)]
    assert client.left() == (0, 0)


def test_an_output_larger_than_foreseen_is_the_models_fault_and_no_lack_of_memory(
    redis_url: str, client: Client
) -> None:
    class Wide(Doubler):
        def run(self, inputs: Arrays) -> Arrays:
            return {"y": np.repeat(super().run(inputs)["y"], 1000, axis=1)}

    backend = Wide()
    with RunningSlot(redis_url, backend=backend):
        (outcome,) = client.wait(client.submit(1.0))
    assert (outcome.status, outcome.note["reason"]) == (Status.FAILED, "model_error")
    assert "were foreseen by the manifest's shapes" in outcome.note["error"]
    assert backend.freed == 0


# --- retries ----------------------------------------------------------------------------------


def retry_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    soon = msgspec.structs.replace(failures.POLICIES[failures.Kind.TRANSIENT], first_ms=1)
    monkeypatch.setitem(failures.POLICIES, failures.Kind.TRANSIENT, soon)


@pytest.mark.parametrize(
    ("retries", "status", "reason"), [(0, Status.FAILED, "transient_error"), (2, Status.DEAD, "retries_exhausted")]
)
def test_a_job_that_had_all_the_retries_it_asked_for_is_dead_and_one_that_asked_for_none_has_failed(
    redis_url: str, client: Client, monkeypatch: pytest.MonkeyPatch, retries: int, status: Status, reason: str
) -> None:
    retry_soon(monkeypatch)
    backend = Doubler()

    def before() -> None:
        raise ConnectionError("the feature store is away")

    backend.before = before
    with RunningSlot(redis_url, backend=backend) as slot:
        ids = client.submit(3.0, retries=retries)
        for _ in range(retries):
            wait_until(lambda: client.link.call(*slot.queue.move()) == 1, "the job is due again")  # the beat's part
        (outcome,) = client.wait(ids)
    assert (outcome.status, outcome.note["reason"], outcome.attempt) == (status, reason, retries + 1)
    assert "ConnectionError: the feature store is away" in outcome.note["error"]
    assert len(backend.batches) == retries + 1
    assert client.link.call("XLEN", keys.dead(MODEL)) == int(status is Status.DEAD)


RAW = ModelSpec(
    name=MODEL, version="1", takes="bytes", inputs=(TensorSpec("x", "float32", (4,)),),
    outputs=(TensorSpec("y", "float32", (4,)),), max_rows=64,
)  # fmt: skip


class Asks:
    """A pipeline that asks elsewhere, item by item; not always answered."""

    away: bool = True

    @classmethod
    def preprocess(cls, items: list[bytes]) -> list[object]:
        made: list[object] = []
        for item in items:
            made.append(np.ones(4, "float32"))
            if item == b"assert":
                made[-1] = torch.AcceleratorError(ASSERT)
            elif item == b"away" and cls.away:
                made[-1] = TimeoutError("no features yet")
        return [one if isinstance(one, Exception) else {"x": one} for one in made]


def test_an_item_whose_features_did_not_come_is_tried_again_alone(
    redis_url: str, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    retry_soon(monkeypatch)
    monkeypatch.setattr(Asks, "away", True)
    client = Client(redis_url, RAW)
    with RunningSlot(redis_url, model=RAW, pipeline=Asks) as slot:
        ids = client.submit(b"a", b"away", kind=Kind.BYTES, retries=1)
        assert client.wait(ids[:1])[0].status is Status.DONE
        Asks.away = False
        wait_until(lambda: client.link.call(*slot.queue.move()) == 1, "the job is due again")
        outcome = client.wait(ids)[1]
    client.link.close()
    assert (outcome.status, outcome.attempt) == (Status.DONE, 2)


def test_a_device_error_that_a_pipeline_hands_out_for_one_item_is_the_devices_all_the_same(
    redis_url: str, link: Link
) -> None:
    client = Client(redis_url, RAW)
    slot = RunningSlot(redis_url, model=RAW, pipeline=Asks)
    client.submit(b"assert", kind=Kind.BYTES)
    slot.thread.start()
    assert slot.join().exit is Exit.DEVICE_FAULT
    (lease,) = link.call("XPENDING", Queue(MODEL, "x").lanes[1], keys.GROUP, "-", "+", 10)
    assert lease[3] == 2
    client.link.close()
