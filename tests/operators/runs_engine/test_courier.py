"""What each refusal, loss or failure of a job means for its rows, against a pool that does as it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from broker.errors import (
    InvalidInput,
    JobDead,
    KeyConflict,
    PayloadTooLarge,
    PenstockError,
    QueueFull,
    RedisRefused,
    RedisUnavailable,
    ResultExpired,
    ResultTimeout,
    RunError,
    StaleRequest,
    StoreError,
    SubmitUnknown,
)
from broker.messages import Timings
from broker.spec import Limits, ModelSpec, TensorSpec
from operators.runs.courier import Courier
from operators.runs.data.binding import Group, Read
from operators.runs.data.scored import layout
from operators.runs.pace import Plan, Throttle, Window
from operators.runs.pieces import MOST_LOSSES, Pieces, Scoring
from producer.results import Result

X = TensorSpec("x", "float32", (1,))
SPEC = ModelSpec(
    name="m", version="1", takes="tensors", inputs=(X,), outputs=(TensorSpec("y", "float32", (1,)),), max_rows=8
)
ROWS = 8


class Job:
    """A handle: doubles its rows, or does what its pool says of them."""

    def __init__(self, pool: Pool, inputs: Any) -> None:
        self._pool = pool
        self._inputs = inputs

    def result(self, timeout: float | None = None) -> Result:
        fault = self._pool.answers(self._inputs[:, 0].tolist())
        if fault is not None:
            raise fault
        return Result("m:j-1", {"y": 2 * self._inputs}, None, Timings(0, 0, 0, 0), self._pool.version, 1, {}, {})

    def cancel(self) -> bool:
        self._pool.cancelled += 1
        return True


class Pool:
    """A producer. `refuses` and `answers` say what is raised for the values of a call or a job, None nothing."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.cancelled = 0
        self.version = "1"
        self.refuses: Callable[[list[list[float]]], PenstockError | None] = lambda values: None
        self.answers: Callable[[list[float]], PenstockError | None] = lambda values: None

    def submit_many(self, model: str, inputs: list[Any], *, idempotency_keys: list[str], **terms: Any) -> list[Job]:
        assert (model, terms["lane"]) == ("m", "low")
        self.keys += idempotency_keys
        error = self.refuses([one[:, 0].tolist() for one in inputs])
        if error is not None:
            error.accepted = [Job(self, one) for one in inputs[: len(error.accepted)]]
            raise error
        return [Job(self, one) for one in inputs]


class Stand:
    """A courier with one chunk of ROWS rows, in jobs of four."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pool = Pool()
        self.pieces = Pieces(job_rows=4)
        read = Read((), {}, pa.table({"id": list(range(ROWS))}), ROWS)
        self.page = layout(SPEC, "raw", read.keys.schema).page(read)
        self.scoring = Scoring(0, 100, ROWS, self.page, read.keys, ROWS, None, self.page.table)
        x = np.arange(ROWS, dtype=np.float32)[:, None]
        self.pieces.add(self.scoring, (Group(np.arange(ROWS), {"x": x}),))
        window = Window(Limits(), Plan(ROWS, 4, 4), window_bytes=1 << 20)
        self.window = window
        self.courier = Courier(
            self.pool, "m", run="r", round="7", version="1", pieces=self.pieces, window=window, throttle=Throttle(0),  # type: ignore[arg-type]
            clock=lambda: self.now,
        )  # fmt: skip

    def work(self, rounds: int = 200) -> None:
        for _ in range(rounds):
            self.courier.send()
            self.courier.fetch(0)
            self.now += 1.0
            if self.scoring.is_done:
                break

    def table(self) -> tuple[list[Any], list[Any]]:
        table = self.page.table("1")
        return table["y"].to_pylist(), table["error"].to_pylist()


@pytest.fixture
def stand() -> Stand:
    return Stand()


def require_all_good(stand: Stand) -> None:
    values, errors = stand.table()
    assert [one if not isinstance(one, list) else one[0] for one in values] == [2.0 * row for row in range(ROWS)]
    assert errors == [None] * ROWS
    assert (stand.courier.answered, stand.window.jobs, stand.window.bytes, stand.courier.is_idle) == (ROWS, 0, 0, True)


def once(error: PenstockError) -> Callable[[Any], PenstockError | None]:
    """Raises it at the first call."""
    left = [error]
    return lambda _: left.pop() if left else None


def test_a_chunk_travels_in_jobs_named_after_its_rows(stand: Stand) -> None:
    stand.work()
    require_all_good(stand)
    assert stand.pool.keys == ["run/r/7/100+4/0", "run/r/7/104+4/0"]


@pytest.mark.parametrize(
    "error",
    [
        QueueFull("full", retry_after_s=2.0), SubmitUnknown("?", job_id="m:j-1"), RedisUnavailable("away"), StaleRequest("old"),
        StoreError("no store"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_was_not_queued_for_now_is_submitted_again_under_the_same_name(stand: Stand, error: PenstockError) -> None:
    error.accepted = [None]  # the first job was queued
    stand.pool.refuses = once(error)
    stand.courier.send()
    assert stand.window.jobs == 1
    if not isinstance(error, StaleRequest):
        assert stand.courier.doing
        assert not stand.courier.send(), "not at once"
    stand.work()
    require_all_good(stand)
    assert stand.pool.keys == ["run/r/7/100+4/0", "run/r/7/104+4/0", "run/r/7/104+4/0"]
    assert stand.courier.doing == ""


@pytest.mark.parametrize("error", [JobDead("job m:j-1 is dead: 3 crashes"), PayloadTooLarge("too large")])
def test_a_row_at_fault_is_found_by_halves_and_fails_alone(stand: Stand, error: PenstockError) -> None:
    if isinstance(error, JobDead):
        stand.pool.answers = lambda values: error if 5.0 in values else None
    else:

        def refuses(jobs: list[list[float]]) -> PenstockError | None:  # fmt: skip
            at = next((at for at, values in enumerate(jobs) if 5.0 in values), None)
            if at is None:
                return None
            fresh = PayloadTooLarge("too large")
            fresh.accepted = [None] * at
            return fresh

        stand.pool.refuses = refuses
    stand.work()
    values, errors = stand.table()
    assert [row for row, text in enumerate(errors) if text] == [5]
    assert errors[5] in ("3 crashes", "too large")
    assert [values[row] is None for row in (4, 5)] == [False, True]
    assert stand.courier.answered == ROWS
    assert len(stand.pool.keys) < 12


def test_an_input_that_is_refused_before_it_is_sent_takes_none_of_its_neighbours_with_it(stand: Stand) -> None:
    def refuses(jobs: list[list[float]]) -> PenstockError | None:
        for at, values in enumerate(jobs):
            if 6.0 in values:
                error = InvalidInput("holds NaN")
                error.index = at  # and nothing before it was sent
                return error
        return None

    stand.pool.refuses = refuses
    stand.work()
    errors = stand.table()[1]
    assert [row for row, text in enumerate(errors) if text] == [6]


@pytest.mark.parametrize("error", [ResultExpired("gone"), KeyConflict("other content")], ids=["lost", "conflict"])
def test_what_is_lost_is_submitted_as_another_job(stand: Stand, error: PenstockError) -> None:
    if isinstance(error, KeyConflict):
        stand.pool.refuses = once(error)
    else:
        stand.pool.answers = once(error)
    stand.work()
    require_all_good(stand)
    assert "run/r/7/100+4/1" in stand.pool.keys


def test_what_is_lost_again_and_again_ends_the_run(stand: Stand) -> None:
    stand.pool.answers = lambda values: ResultExpired("gone")
    with pytest.raises(RunError, match=f"lost {MOST_LOSSES + 1} times"):
        stand.work()


def test_a_job_that_takes_its_time_is_waited_for(stand: Stand) -> None:
    waits = [True] * 30
    stand.pool.answers = lambda values: ResultTimeout("later") if waits and waits.pop() else None
    stand.work()
    require_all_good(stand)
    assert len(stand.pool.keys) == 2


def test_a_refused_user_ends_the_run_and_does_not_wait_for_ever(stand: Stand) -> None:
    stand.pool.refuses = once(RedisRefused("no right"))
    with pytest.raises(RedisRefused):
        stand.work()


def test_an_answer_of_another_version_ends_the_turn_before_anything_is_taken(stand: Stand) -> None:
    stand.pool.version = "2"
    with pytest.raises(RunError, match="now answers as version 2, and this run is on 1"):
        stand.work()
    assert stand.courier.answered == 0


def test_what_is_under_way_is_cancelled_when_a_run_is_left(stand: Stand) -> None:
    stand.courier.send()
    stand.courier.let_go()
    assert stand.pool.cancelled == 2


def test_behind_an_answer_that_is_late_the_other_slots_are_given_more(monkeypatch: pytest.MonkeyPatch) -> None:
    # given: a window for one job, of which no answer comes
    monkeypatch.setattr("operators.runs.pace.WINDOW_BYTES", 16)
    monkeypatch.setattr("operators.runs.pace.SLOT_JOBS", 1)
    stand = Stand()
    stand.pool.answers = lambda values: ResultTimeout("later")
    stand.courier.send()
    stand.courier.fetch(0)
    assert (stand.window.jobs, stand.courier.send()) == (1, False), "it only looked"
    # when, then
    stand.courier.fetch(0.001)
    assert (stand.courier.send(), stand.window.jobs) == (True, 2)
