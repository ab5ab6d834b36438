"""A slot with a torch-free engine on a real Redis. The fake stands for the model; everything else is the real thing."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import numpy as np

from broker import codec, keys, outcome_codec, spec
from broker.answer import Answer
from broker.bodies_store import BodyStore
from broker.connection import Link
from broker.intake import Intake
from broker.messages import Kind, Outcome
from broker.queue import Queue
from broker.settings_tables import RetireSettings, SlotSettings
from broker.spec import Limits, ModelSpec, TensorSpec
from workers.backends import Arrays
from workers.batcher import Batcher
from workers.board import Board
from workers.caps import Caps
from workers.columns import slab_bytes
from workers.engine_client import EngineDied
from workers.exchange import Measure, Measured, Ran, Ready, Run
from workers.forward import Forward
from workers.outcomes import Outcomes
from workers.progress import Progress
from workers.retire import Retirement, Verdict
from workers.slabs import Slab
from workers.slot import Slot
from workers.stow import Stower
from workers.timetable import Timetable
from workers.wire import Wire

MODEL = "doubler"
DEFAULTS = Limits()
SPEC = ModelSpec(
    name=MODEL, version="1", takes="tensors", inputs=(TensorSpec("x", "float32", (4,)),),
    outputs=(TensorSpec("y", "float32", (4,)),), max_rows=64,
)  # fmt: skip
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
RAISES, KILLS = -13.0, -666.0  # a row that starts with one of these does that
DEVICE = "h/cpu"


class Abort(BaseException):
    """What a backend raises to stand for the death of its process."""


class Doubler:
    """y = 2 x. Counts its forwards."""

    device = "cpu"

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.before: Callable[[], None] = lambda: None
        self.is_sound, self.probes, self.freed = True, 0, 0

    def run(self, inputs: Arrays) -> Arrays:
        x = inputs["x"]
        self.batches.append([float(value) for value in x[:, 0]])
        self.before()
        if (x[:, 0] == KILLS).any():
            raise Abort
        if (x[:, 0] == RAISES).any():
            raise ValueError("thirteen")
        return {"y": x * 2}

    def device_bytes(self) -> int | None:
        return None

    def probe(self) -> bool:
        self.probes += 1
        return self.is_sound

    def free(self) -> None:
        self.freed += 1


class FakeEngine:
    """Answers in the slot's thread. `kills` stand for a dead process."""

    def __init__(self, model: ModelSpec, backend: Doubler, pipeline: Any = None, *, forwards: int = 1) -> None:
        sizes = slab_bytes(model, ROW_BUCKETS[-1] * forwards, raw_bytes=1 << 20)
        self.slabs = [Slab(input_bytes=sizes[0], output_bytes=sizes[1]) for _ in range(2)]
        self.progress = Progress()
        self._forward = Forward(model, backend, self.slabs, pipeline, stamp=self.progress.stamp)
        self._answers: list[Ran | Measured] = []
        self._is_dead = False
        self.pid = os.getpid()

    def start(self) -> None: ...

    def poll_ready(self) -> Ready | None:
        return None

    def fileno(self) -> int:
        return -1

    def send(self, message: Run | Measure) -> None:
        try:
            self._answers.append(Measured(1, None) if isinstance(message, Measure) else self._forward.run(message))
        except Abort:
            self._is_dead = True

    def collect(self) -> Ran | Measured:
        if self._is_dead:
            raise EngineDied("the engine died of signal 6")
        return self._answers.pop(0)

    def kill(self) -> bool:
        return True

    def close(self) -> None: ...


class LateEngine(FakeEngine):
    """Answers from a thread of its own, as the real one does from its process."""

    def __init__(self, model: ModelSpec, backend: Doubler) -> None:
        super().__init__(model, backend)
        self._ours, self._theirs = socket.socketpair()
        self._inbox: SimpleQueue[Run | Measure | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while (message := self._inbox.get()) is not None:
            super().send(message)
            with suppress(OSError):  # a forward that outlasts its test finds it closed
                self._theirs.send(b"!")

    def fileno(self) -> int:
        return self._ours.fileno()

    def send(self, message: Run | Measure) -> None:
        self._inbox.put(message)

    def collect(self) -> Ran | Measured:
        self._ours.recv(1)
        return super().collect()

    def close(self) -> None:
        self._inbox.put(None)
        self._thread.join(10)
        self._ours.close()
        self._theirs.close()


class SilentEngine(FakeEngine):
    """Takes a batch and never answers, like a stuck CUDA call."""

    def __init__(self, model: ModelSpec, backend: Doubler) -> None:
        super().__init__(model, backend)
        self._ours, self._theirs = socket.socketpair()
        self.was_killed = False

    def fileno(self) -> int:
        return self._ours.fileno()

    def send(self, message: Run | Measure) -> None: ...

    def kill(self) -> bool:
        self.was_killed = True
        self._ours.close()
        self._theirs.close()
        return True


class RunningSlot:
    """A slot in a thread. Leave the block to drain it; `verdict` says how it ended."""

    def __init__(
        self,
        url: str,
        *,
        name: str = "h/0",
        backend: Doubler | None = None,
        engine: Any = None,
        model: ModelSpec = SPEC,
        pipeline: Any = None,
        limits: Limits = DEFAULTS,
        retire: dict[str, Any] | None = None,
        caps: Caps | None = None,
        store: BodyStore | None = None,
        timetable: Timetable | None = None,
        forwards: int = 1,
        **slot: Any,
    ) -> None:
        self.backend = backend or Doubler()
        self.link = Link(url)
        self.link.connect()
        self.queue = Queue(model.name, f"{name}.{os.urandom(3).hex()}")
        self.board = Board(name=name, incarnation="x", pid=os.getpid())
        self.restored = 0
        self.verdict: Verdict | None = None
        self.error: BaseException | None = None
        beside = Link(url)
        beside.connect()

        def restore() -> None:
            self.queue.ensure_groups(beside)
            spec.publish(beside, model, limits)
            self.restored += 1

        restore()
        self.restored = 0
        self._beside = beside
        settings = RetireSettings(
            **{"max_jobs": 0, "jitter": 0.0, "min_life_s": 0.0, "min_life_loads": 0.0, **(retire or {})}
        )
        self.engine = engine or FakeEngine(model, self.backend, pipeline, forwards=forwards)
        self.slot = Slot(
            queue=self.queue,
            wire=Wire(self.link),
            engine=self.engine,
            batcher=Batcher(model, row_buckets=ROW_BUCKETS, max_rows=64, batch_bytes=1 << 20, most_forwards=forwards),
            stower=Stower(model),
            outcomes=Outcomes(model),
            retirement=Retirement(settings, baseline=Measured(1, None), ready_at=time.monotonic(), load_s=0.0),
            board=self.board,
            settings=SlotSettings(**{"block_ms": 50, "lease_s": 5.0, **slot}),
            restore=restore,
            caps=caps,
            timetable=timetable,
            device=DEVICE,
            store=store,
        )
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.verdict = self.slot.run()
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.link.close()
            self._beside.close()

    def __enter__(self) -> RunningSlot:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.slot.leave()
        self.join()
        self.slot.close()
        self.engine.close()

    def join(self) -> Verdict:
        self.thread.join(20)
        assert not self.thread.is_alive(), "the slot did not end"
        assert self.verdict is not None, self.error
        return self.verdict


class Client:
    """Submits rows and reads outcomes, below the producer API."""

    def __init__(self, url: str, model: ModelSpec = SPEC, client: str = "cli") -> None:
        self.link = Link(url)
        self.link.connect()
        self.model = model
        self.intake = Intake(model.name, client)
        self.outcomes: dict[str, Outcome] = {}
        self._number = 0

    def blob(self, value: Any, job_id: str, *, kind: Kind = Kind.TENSORS, retries: int = 0) -> bytes:
        """One job: a float fills a row, an array [rows, ...] is a job of many rows, bytes go raw."""
        if kind is Kind.TENSORS:
            is_one = np.isscalar(value)
            array = np.full((1, 4), value, "float32") if is_one else np.asarray(value, "float32")
            rows, data = len(array), array.tobytes()
            columns = codec.pack_columns([("x", "float32", array.shape[1:])])
        else:
            is_one, rows, data, columns = True, 1, value, b""
        head, tail = codec.encode_job_head(
            kind=kind, rows=rows, is_one_row=bool(is_one), is_stored=True, retries=retries, result_ttl_s=60,
            descriptor=columns, context=None,
        )  # fmt: skip
        return codec.encode_job(head, job_id.encode(), tail, data)

    def submit(
        self, *values: Any, lane: int = 2, kind: Kind = Kind.TENSORS, retries: int = 0, **options: Any
    ) -> list[str]:
        """One job per value; the ids."""
        ids = [f"{self.intake.client}-{self._number + at}" for at in range(1, len(values) + 1)]
        self._number += len(values)
        blobs = [self.blob(value, one, kind=kind, retries=retries) for value, one in zip(values, ids, strict=True)]
        number = self.intake.numbers.take()
        answer = Answer.read(self.link.call(*self.intake.submit(number, "-1", blobs, lane=lane, **options)))
        self.intake.numbers.answered(number)
        assert (answer.code, answer.accepted) == ("ok", len(values))
        return ids

    def wait(self, ids: list[str], within_s: float = 15.0) -> list[Outcome]:
        """The outcomes of `ids`, in order. A second outcome for an id fails the test."""
        deadline = time.monotonic() + within_s
        while missing := [one for one in ids if one not in self.outcomes]:
            assert time.monotonic() < deadline, f"{len(missing)} outcomes are missing, first {missing[0]}"
            reply = self.link.call("BLPOP", self.intake.reply_key, 0.2)
            for blob in outcome_codec.split_frames(reply[1]) if reply else ():
                outcome = outcome_codec.decode(blob)
                assert outcome.id not in self.outcomes, f"{outcome.id} was answered twice"
                self.outcomes[outcome.id] = outcome
        return [self.outcomes[one] for one in ids]

    def counters(self) -> dict[str, int]:
        flat = self.link.call("HGETALL", keys.counters(self.model.name))
        return {flat[at].decode(): int(flat[at + 1]) for at in range(0, len(flat), 2)}

    def left(self) -> tuple[int, int]:
        """(entries in the lanes, leases pending): both 0 when all is over."""
        queue = Queue(self.model.name, "looker")
        lengths = [self.link.call("XLEN", lane) for lane in queue.lanes]
        pending = [self.link.call("XPENDING", lane, keys.GROUP)[0] for lane in queue.lanes]
        return sum(lengths), sum(pending)


def first(outcome: Outcome) -> float:
    """The first value of a done outcome."""
    return float(np.frombuffer(outcome.data, "float32")[0])
