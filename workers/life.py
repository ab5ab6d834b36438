"""One life of one slot, from its lock to its exit code: builds the parts, runs them, leaves word.

In order: lock (the life before is dead), assignment, take-over of the leases left behind, back-off, artifact, engine, ready.
Whatever raises on the way ends it with a named code; supervisord starts the next life.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable

import structlog

from broker import caps, roster, spec
from broker.connection import LOST, Link, NoPermissionError, refused
from broker.errors import ArtifactError, ConfigError, DeviceError, RedisRefused, RedisUnavailable
from broker.queue import Queue
from broker.roster import Assignment
from broker.settings import Settings
from workers import trust
from workers.artifact import Artifact, open_artifact
from workers.batcher import Batcher
from workers.beat import Beat
from workers.blame import Blame
from workers.board import Board
from workers.caps import Caps
from workers.custody import Custody
from workers.engine_client import Engine, EngineDied, EngineProcess, InlineEngine, make_slabs
from workers.exchange import Ready
from workers.exits import BLAMING, KILLED, Exit
from workers.incarnation import Incarnation
from workers.outcomes import Outcomes
from workers.retire import Retirement, Verdict
from workers.slot import Slot
from workers.stow import Stower
from workers.take_over import take_over
from workers.wire import Wire

log = structlog.get_logger()
REDIS_PATIENCE_S = 30.0
RAW_FLOOR_BYTES = 4 << 20
WAIT_SLICE_S = 0.1
ORPHAN_DRAIN_S = 1.5  # to finish, and again to tell Redis, when the supervisor died
ORPHAN_MOST_S = 4.0


class Stopped(Exception):
    """Raised inside a life that was asked to stop before it was ready."""


class Life:
    """Builds the parts of one incarnation and holds them until its end."""

    def __init__(self, settings: Settings, number: int, *, is_inline: bool = False, owns_process: bool = False) -> None:
        """`owns_process`: a loop that hangs ends the process, which is not done to a test's."""
        self.owns_process = owns_process
        self.settings = settings
        self.number = number
        self.name = roster.slot_name(settings.host, number)
        self.is_inline = is_inline
        self.is_stopping = False
        self.is_orphan = False
        self.has_ended = False
        self.slot: Slot | None = None
        self.engine: Engine | None = None
        self.beat: Beat | None = None

    def stop(self) -> None:
        """Asks for the end; safe in a signal handler."""
        self.is_stopping = True
        slot = self.slot
        if slot is not None:
            self._tell(slot)

    def abandon(self) -> None:
        """The supervisor died: nobody restarts this slot any more or ends its engine, so both end within seconds."""
        log.warning("supervisord is gone", slot=self.name, next="the slot drains and ends", within_s=ORPHAN_MOST_S)
        self.is_orphan = True
        self.stop()
        timer = threading.Timer(ORPHAN_MOST_S, self._give_up)
        timer.daemon = True
        timer.start()

    def _give_up(self) -> None:
        """Ends an orphan that something holds up. Its leases are returned by the next life, unmarked: nothing is to blame."""
        with contextlib.suppress(AttributeError, OSError, ValueError):  # not built yet, or closed by the loop meanwhile
            self.blame.clear()
            self.incarnation.end(Exit.DRAINED.reason, is_fault=False)
            self.custody.signal()
        os._exit(int(Exit.DRAINED))

    def _tell(self, slot: Slot) -> None:
        if self.is_orphan:
            slot.leave(detail="supervisord is gone", within_s=ORPHAN_DRAIN_S)
        else:
            slot.leave()

    def live(self) -> Exit:
        """From the lock to the exit code. Raises ConfigError, RedisUnavailable."""
        self.incarnation = Incarnation(self.settings.var, self.number)
        self.blame = Blame(self.settings.var, self.number)
        self.custody = Custody(self.settings.var, self.number, self.incarnation)
        self.board = Board(name=self.name, incarnation=self.incarnation.id, pid=os.getpid())
        self._url = self.settings.redis_url_as("worker")
        link = Link(self._url)
        try:
            return self._live(link)
        finally:
            if self.beat is not None:
                self.beat.stop()
            if self.engine is not None:
                self.engine.kill()
                self.engine.close()
            if self.slot is not None:
                slot, self.slot = self.slot, None
                slot.close()
            link.close()
            self.blame.close()
            self.incarnation.close()

    def _live(self, link: Link) -> Exit:
        try:
            link.connect_within(REDIS_PATIENCE_S, wait=self._pause)
        except RedisRefused as error:
            self.incarnation.end(Exit.MISCONFIGURED.reason, is_fault=True)  # so that the next life backs off
            log.error("slot cannot start", slot=self.name, error=str(error), retry_in_s=self.incarnation.back_off_s())
            self._pause(self.incarnation.back_off_s())
            return Exit.MISCONFIGURED
        try:
            if self.incarnation.was_killed:
                roster.record_exit(link, self.name, KILLED, "left no word", 0)
            verdict = self._serve(link)
        except (*LOST, RedisUnavailable) as error:
            verdict = Verdict(Exit.REDIS_LOST, f"Redis was lost before the slot was ready: {error}")
        except Stopped:
            verdict = Verdict(Exit.DRAINED, "asked to stop before it was ready")
        except (ArtifactError, DeviceError) as error:
            verdict = Verdict(Exit.LOAD_FAILED, str(error))
        except EngineDied as error:
            verdict = Verdict(Exit.LOAD_FAILED, f"{error} while it loaded the model")
        except ConfigError:
            raise
        except NoPermissionError as error:
            verdict = Verdict(Exit.MISCONFIGURED, str(refused(self._url, error)))
        except Exception as error:  # the process edge: a slot must not stay up without its loop
            log.exception("slot crashed", slot=self.name, next="supervisord starts it again; its leases are returned")
            verdict = Verdict(Exit.CRASHED, " ".join(f"{type(error).__name__}: {error}".split())[:500])
        self._leave(link, verdict)
        return verdict.exit

    # --- the way to ready ---------------------------------------------------------------------

    def _serve(self, link: Link) -> Verdict:
        board = self.board
        board.state = "backing off" if self.incarnation.back_off_s() else "starting"
        assignment = self._await_assignment(link)
        model = assignment.model
        queue = Queue(model, f"{self.name}.{self.incarnation.id}")
        queue.ensure_groups(link)
        board.model = model
        self.beat = Beat(
            board=board,
            queue=queue,
            link=Link(self._url),
            settings=self.settings.slot,
            on_stuck=self._die if self.owns_process and not self.is_inline else None,  # a debugger may hold the loop
        )
        self.beat.start()
        self._take_over(link, queue)  # before the back-off: the jobs need not wait for it
        self._back_off()
        self.blame.begin(self.incarnation.id)
        self.incarnation.begin(model)
        self.custody.check(assignment.device)
        board.state = "loading"
        board.reason = ""
        self.beat.hurry()
        artifact = self._open(assignment)

        def publish() -> None:
            beside = Link(self._url)  # the slot's own link may have answers under way
            try:
                beside.connect()
                queue.ensure_groups(beside)
                spec.publish(beside, artifact.spec, self.settings.queue)
            finally:
                beside.close()

        publish()
        max_rows = self.settings.models[model].max_rows if model in self.settings.models else 0
        row_buckets = artifact.row_buckets(max_rows)
        raw_bytes = max(RAW_FLOOR_BYTES, self.settings.queue.payload_limit_bytes)
        engine = self._start_engine(artifact, assignment, row_buckets, raw_bytes)
        ready = self._await_ready(engine)
        self._note_ready(artifact, ready)
        device = f"{self.settings.host}/{assignment.device}"
        slot = self.slot = Slot(
            queue=queue,
            wire=Wire(link),
            engine=engine,
            batcher=Batcher(artifact.spec, row_buckets=row_buckets, max_rows=row_buckets[-1], batch_bytes=raw_bytes),
            stower=Stower(artifact.spec),
            outcomes=Outcomes(artifact.spec),
            retirement=Retirement(
                self.settings.retire_of(model), baseline=ready.usage, ready_at=time.monotonic(), load_s=ready.load_s
            ),
            board=board,
            settings=self.settings.slot,
            restore=publish,
            on_settled=self.incarnation.settled,
            hurry=self.beat.hurry,
            caps=self._caps(link, model, device, row_buckets, ready),
            device=device,
            times=ready.times,
            blame=self.blame,
        )
        if self.is_stopping:
            self._tell(slot)
        log.info("slot ready", slot=self.name, model=model, version=artifact.spec.version, device=ready.device,
                 load_s=round(ready.load_s, 2))  # fmt: skip
        return slot.run()

    def _await_assignment(self, link: Link) -> Assignment:
        is_told = False
        while True:
            assignment = roster.assignments(link, self.settings.host).get(self.number)
            if assignment is not None:
                return assignment
            if not is_told:
                log.warning(
                    "slot has no assignment", slot=self.name, next="it waits; `penstock scale MODEL N` gives one"
                )
                is_told = True
            self.board.state = "unassigned"
            link.run_all([roster.announce(self.name, self.board.fields())])
            self._pause(1.0)

    def _take_over(self, link: Link, queue: Queue) -> None:
        """The lock proves that all earlier lives of this slot are dead: their leases go back before the model loads."""
        before = self.incarnation.before
        queues = [queue]
        if before.model not in ("", queue.model):
            queues.append(Queue(before.model, queue.consumer))
        take_over(link, queues, slot=self.name, incarnation=self.incarnation, blame=self.blame)

    def _back_off(self) -> None:
        seconds = self.incarnation.back_off_s()
        if seconds:
            before = self.incarnation.before
            self.board.reason = (
                f"{self.incarnation.note.fruitless} lives in a row settled nothing (last: {before.exit or KILLED})"
            )
            self.board.is_failing = True
            if self.beat is not None:
                self.beat.hurry()
            log.warning("backing off", slot=self.name, reason=self.board.reason, retry_in_s=seconds)
            self._pause(seconds)

    def _open(self, assignment: Assignment) -> Artifact:
        artifact = open_artifact(assignment.artifact)
        trust.require(artifact, self.settings.trusted)
        if artifact.spec.name != assignment.model:
            raise ArtifactError(
                f"{assignment.artifact} holds model {artifact.spec.name!r}, the slot is assigned {assignment.model!r}; "
                "correct `artifact` in pool.toml"
            )
        return artifact

    def _start_engine(
        self, artifact: Artifact, assignment: Assignment, row_buckets: tuple[int, ...], raw_bytes: int
    ) -> Engine:
        kind: Callable[..., Engine] = InlineEngine if self.is_inline else EngineProcess
        slabs = make_slabs(artifact, max_rows=row_buckets[-1], raw_bytes=raw_bytes)
        engine = self.engine = kind(
            artifact, slabs=slabs, device=assignment.device, threads=self.settings.slot.threads, row_buckets=row_buckets
        )
        engine.start()
        self.board.engine_pid = engine.pid
        self.custody.take(engine)
        return engine

    def _await_ready(self, engine: Engine) -> Ready:
        deadline = time.monotonic() + self.settings.slot.load_timeout_s
        while (ready := engine.poll_ready()) is None:
            if time.monotonic() > deadline:
                raise ArtifactError(
                    f"the model did not load within {self.settings.slot.load_timeout_s:g} s; raise slot.load_timeout_s"
                )
            self._pause(0.01)
        return ready

    def _caps(self, link: Link, model: str, device: str, row_buckets: tuple[int, ...], ready: Ready) -> Caps:
        """What others learned of the device's memory, and what the warm-up just did."""
        learned = Caps(row_buckets, caps.load(link, model, device))
        seconds, micros = link.call("TIME")
        for one in ready.too_large:
            log.warning(
                "batch does not fit", slot=self.name, rows=one.rows, dims=one.dims, next="smaller ones are served"
            )
            learned.lower(one.dims, one.rows, int(seconds) * 1e3 + int(micros) / 1e3)
        return learned

    def _note_ready(self, artifact: Artifact, ready: Ready) -> None:
        board = self.board
        board.version = artifact.spec.version
        board.device = ready.device
        board.load_s = ready.load_s
        board.host_bytes = board.host_baseline_bytes = ready.usage.host_bytes
        board.device_bytes = board.device_baseline_bytes = ready.usage.device_bytes
        board.is_failing = False

    def _pause(self, seconds: float) -> None:
        """Sleeps in slices, so that a stop is heard."""
        deadline = time.monotonic() + seconds
        while True:
            if self.is_stopping:
                raise Stopped
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, WAIT_SLICE_S))

    def _die(self) -> None:
        """The loop hangs: the beat ends the process, since nothing else here can."""
        log.error("slot stuck", slot=self.name, next="it ends itself; the next incarnation returns its leases")
        self.custody.end("its slot was stuck")
        os._exit(int(Exit.HANG))

    # --- the end ------------------------------------------------------------------------------

    def _leave(self, link: Link, verdict: Verdict) -> None:
        held = self.custody.end(verdict.detail)
        detail = held.text if held is not None else verdict.detail
        if verdict.exit not in BLAMING:
            self.blame.clear()  # what the engine had was returned unharmed, or is to be
        board = self.board
        board.state = "failing" if verdict.exit is Exit.LOAD_FAILED or held is not None else "exiting"
        board.reason = detail
        board.is_ready = False
        board.is_failing = verdict.exit is Exit.LOAD_FAILED or held is not None
        is_fault = verdict.exit in (
            Exit.LOAD_FAILED, Exit.ENGINE_DIED, Exit.HANG, Exit.CRASHED, Exit.MISCONFIGURED, Exit.DEVICE_FAULT,
        )  # fmt: skip
        (log.error if is_fault else log.info)(
            "slot exits", slot=self.name, reason=verdict.exit.reason, detail=detail, jobs=board.jobs
        )
        if self.beat is not None:
            self.beat.hurry()
            self.beat.stop()
        try:
            if link.fileno() < 0:
                link.connect()
            roster.record_exit(link, self.name, verdict.exit.reason, detail, board.jobs)
            commands = [roster.announce(self.name, board.fields())]
            if board.model:
                queue = Queue(board.model, f"{self.name}.{self.incarnation.id}")
                commands.append(
                    queue.pulse(self.name, [], ready_ms=0, failing_ms=300_000 * is_fault, frees_place=False)
                )
            link.run_all(commands)
        except (*LOST, RedisUnavailable, NoPermissionError) as error:
            log.warning("redis lost at the end", error=str(error), next="the exit stays in the slot's note only")
        self.incarnation.end(verdict.exit.reason, is_fault=is_fault)
