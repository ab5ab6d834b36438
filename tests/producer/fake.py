"""A published model and a fake worker: the contract is real, only the forward is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from broker import codec, keys, outcome_codec
from broker.bodies import REDIS
from broker.bodies_store import BodyStore
from broker.claimed import with_body
from broker.connection import LOST, Command, Link
from broker.ends import Ended, Fault
from broker.messages import Job, Status
from broker.queue import Queue
from broker.spec import ModelSpec, TensorSpec

MODEL = "double"


def wait_until(is_true: Callable[[], Any], *, within_s: float = 5.0) -> Any:
    """Polls until `is_true` gives something true; that."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if value := is_true():
            return value
        threading.Event().wait(0.005)
    raise AssertionError(f"not true within {within_s} s")


def drain_fast(link: Link) -> None:
    """Makes the queue's measured drain rate high and keeps it so: a full queue then says to retry after 50 ms."""
    link.call("HSET", keys.counters(MODEL), "rate", 100_000, "mark_ms", 10**15)


def model_spec(**changes: Any) -> ModelSpec:
    fields: dict[str, Any] = {
        "name": MODEL, "version": "1", "takes": "tensors", "max_rows": 64,
        "inputs": (TensorSpec("x", "float32", (4,)),), "outputs": (TensorSpec("y", "float32", (4,)),),
    }  # fmt: skip
    return ModelSpec(**(fields | changes))


Rows: TypeAlias = np.ndarray[Any, Any]
Act: TypeAlias = Callable[[Job, Rows], Any]


def double(job: Job, rows: Rows) -> bytes:
    """An outcome with y = 2x."""
    columns = codec.pack_columns([("y", "float32", tuple(rows.shape[1:]))])
    return done(job, outcome_codec.pack_descriptor("1", job.rows, columns), (rows * 2).tobytes())


def done(job: Job, descriptor: bytes, data: bytes, note: dict[str, Any] | None = None, marks: int = 0) -> bytes:
    status = int(Status.DONE) | marks | (outcome_codec.ONE_ROW if job.is_one_row else 0)
    timings = (1.0, 0.5, 0.25, 1.75)
    return outcome_codec.encode(
        job.id, status, attempt=job.attempt, timings=timings, descriptor=descriptor, note=note, data=data
    )


class Worker:
    """Claims and settles in a thread, as a slot does; `act` gives the outcome, a Fault's verdict, or None to hold."""

    def __init__(
        self, url: str, act: Act = double, *, model: str = MODEL, is_ready: bool = True, store: BodyStore | None = None
    ) -> None:
        self._store = store
        self.runs: list[str] = []
        self.jobs: list[Job] = []
        self._link = Link(url)
        self._queue = Queue(model, "fake.1")
        self._act = act
        self._is_ready = is_ready
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Worker:
        self._link.connect()
        self._link.call("CLIENT", "SETNAME", "worker")
        if self._is_ready:
            self._link.call("ZADD", keys.ready(self._queue.model), 1e15, "fake/0")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(5)
        self._link.close()

    def _work(self) -> None:
        link, queue, was_lost = self._link, self._queue, False
        while not self._is_over.is_set():
            try:
                if was_lost:
                    link.connect_within(5)
                    # What came with an answer that was lost is no loss.
                    queue.take_over(link, [queue.consumer], marks=0)
                    was_lost = False
                link.send(queue.move(), queue.claim(256))
                link.read()
                jobs = queue.read_claim(link.read()).jobs
                if not jobs:
                    jobs = queue.read_block(link.call(*queue.block(256, 20))).jobs
                if jobs:
                    self._end(jobs)
            except LOST:
                was_lost = True

    def _read(self, job: Job) -> Any:
        assert self._store is not None
        assert job.body is not None
        return self._store.read(job.body.name)

    def _end(self, jobs: list[Job]) -> None:
        ended, faults = [], []
        for job in jobs:
            self.runs.append(job.id)
            self.jobs.append(job)
            if job.body is not None:
                is_key = job.body.token == REDIS
                found = (
                    self._link.call("GET", keys.body(self._queue.model, job.body.name)) if is_key else self._read(job)
                )
                assert job.body.fault(found) == ""
                job = with_body(job, found)
            raw = job.data[job.offset :]
            rows = np.frombuffer(raw, "float32") if not job.kind else np.zeros(0, "float32")
            if not job.kind:
                rows = rows.reshape(job.rows, *job.signature.columns[0].shape)
            outcome = self._act(job, rows)
            if isinstance(outcome, Fault):
                faults.append(outcome)
            elif outcome is not None:
                ended.append(Ended(job, outcome))
        commands = [self._queue.settle(ended)] * bool(ended) + [self._queue.fail(faults)] * bool(faults)
        if commands:
            for reply in self._told(commands):
                if isinstance(reply, Exception):
                    raise reply

    def _told(self, commands: list[Command]) -> list[Any]:
        """The answers to what may be said twice; said until it is answered, as a slot does."""
        while True:
            try:
                return self._link.call_all(commands)
            except LOST:
                self._link.connect_within(5)
