"""Builds a slot's parts from its assignment, in one place: artifact, engine, what is known of the device's memory, the slot.

Starts nothing and waits for nothing; when each is built decides the life.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import structlog

from broker import caps, paused, spec, timetable
from broker.bodies_store import BodyStore, open_store
from broker.connection import Link
from broker.ends import Ended
from broker.errors import ArtifactError, ConfigError, StoreError
from broker.queue import Queue
from broker.roster import Assignment
from broker.settings import Settings
from workers import trust
from workers.artifact import Artifact, open_artifact
from workers.batcher import Batcher
from workers.blame import Blame
from workers.board import Board
from workers.body_remover import BodyRemover
from workers.caps import Caps
from workers.chain import most_forwards
from workers.columns import RAW_FLOOR_BYTES
from workers.engine_client import Engine, EngineProcess, InlineEngine, make_slabs
from workers.exchange import Ready
from workers.outcomes import Outcomes
from workers.retire import Retirement
from workers.slot import Slot
from workers.stow import Stower
from workers.timetable import Timetable
from workers.wire import Wire

log = structlog.get_logger()


class Parts:
    """The parts of one slot. Opening them checks the artifact: raises ArtifactError."""

    def __init__(self, settings: Settings, assignment: Assignment, *, queue: Queue, slot: str, url: str) -> None:
        """`slot` is its name, `url` the Redis of workers."""
        self.artifact = _opened(assignment, settings)
        model = assignment.model
        own = settings.models.get(model)
        self._row_buckets = (
            self.artifact.row_buckets(own.max_rows, own.row_buckets) if own else self.artifact.row_buckets()
        )
        self._most_forwards = most_forwards(
            self.artifact.spec, device=assignment.device, max_rows=self._row_buckets[-1]
        )
        self._memory_fraction = own.memory_fraction if own else 0.0
        self._raw_bytes = max(RAW_FLOOR_BYTES, settings.queue.payload_limit_bytes)
        self._settings = settings
        self._assignment = assignment
        self._queue = queue
        self._slot = slot
        self._url = url
        self._device = f"{settings.host}/{assignment.device}"
        self._store = _opened_store(settings)

    def publish(self) -> None:
        """Makes groups and spec known, on a connection of its own: the slot's may have answers under way."""
        beside = Link(self._url)
        try:
            beside.connect()
            self._queue.ensure_groups(beside)
            spec.publish(beside, self.artifact.spec, self._settings.queue)
        finally:
            beside.close()

    def engine(self, *, is_inline: bool) -> Engine:
        """With its slabs, not started yet."""
        kind: Callable[..., Engine] = InlineEngine if is_inline else EngineProcess
        return kind(
            self.artifact,
            slabs=make_slabs(
                self.artifact, max_rows=self._row_buckets[-1], raw_bytes=self._raw_bytes, forwards=self._most_forwards
            ),
            device=self._assignment.device,
            threads=self._settings.slot.threads,
            row_buckets=self._row_buckets,
            memory_fraction=self._memory_fraction,
        )

    def slot(
        self,
        link: Link,
        engine: Engine,
        ready: Ready,
        *,
        board: Board,
        blame: Blame,
        hurry: Callable[[], None],
        on_settled: Callable[[], None],
        body_remover: BodyRemover | None = None,
    ) -> Slot:
        """The slot around an engine that is `ready`. Bodies of jobs that ended are `body_remover`'s."""
        model = self.artifact.spec
        board.pause(paused.lanes(link, model.name))  # before its first claim; from then on the beat tells
        most = self._row_buckets[-1]

        def settled(ended: list[Ended]) -> None:
            on_settled()
            if body_remover is not None and any(one.job.body is not None for one in ended):
                body_remover.hasten()

        return Slot(
            queue=self._queue,
            wire=Wire(link),
            engine=engine,
            batcher=Batcher(
                model, row_buckets=self._row_buckets, max_rows=most, batch_bytes=self._raw_bytes, most_forwards=self._most_forwards,
            ),
            stower=Stower(model),
            outcomes=Outcomes(model),
            retirement=Retirement(
                self._settings.retire_of(model.name), baseline=ready.usage, ready_at=time.monotonic(), load_s=ready.load_s
            ),
            board=board,
            settings=self._settings.slot,
            restore=self.publish,
            on_settled=settled,
            hurry=hurry,
            caps=self._caps(link, ready),
            device=self._device,
            timetable=self._timetable(link, ready),
            remember=partial(timetable.save, model.name, self.artifact.digest, self._device),
            blame=blame,
            store=self._store,
        )  # fmt: skip

    def body_remover(self) -> BodyRemover | None:
        """Who removes large bodies outside Redis, not started yet; None where there are none."""
        if self._store is None:
            return None
        return BodyRemover(model=self.artifact.spec.name, store=self._store, link=Link(self._url))

    def _timetable(self, link: Link, ready: Ready) -> Timetable:
        """What earlier lives learned of this manifest on this device, and what the warm-up just did."""
        slot = self._settings.slot
        learned = timetable.load(link, self._assignment.model, self.artifact.digest, self._device)
        return Timetable(ready.times, floor_s=slot.hang_floor_s, factor=slot.hang_factor, learned=learned)

    def _caps(self, link: Link, ready: Ready) -> Caps:
        """What others learned of the device's memory, and what the warm-up just did."""
        learned = Caps(self._row_buckets, caps.load(link, self._assignment.model, self._device))
        seconds, micros = link.call("TIME")
        for one in ready.too_large:
            log.warning(
                "batch does not fit", slot=self._slot, rows=one.rows, dims=one.dims, next="smaller ones are served"
            )
            learned.lower(one.dims, one.rows, int(seconds) * 1e3 + int(micros) / 1e3)
        return learned


def _opened_store(settings: Settings) -> BodyStore | None:
    try:
        return open_store(settings.queue.bodies)
    except StoreError as error:
        raise ConfigError(f"queue.bodies: {error}") from None


def _opened(assignment: Assignment, settings: Settings) -> Artifact:
    artifact = open_artifact(assignment.artifact)
    trust.require(artifact, settings.trusted)
    if artifact.spec.name != assignment.model:
        raise ArtifactError(
            f"{assignment.artifact} holds model {artifact.spec.name!r}, the slot is assigned {assignment.model!r}; "
            "correct `artifact` in pool.toml"
        )
    return artifact
