"""One life of one slot, from its lock to its exit code: runs the parts, and names what ends it.

In order: lock (the life before is dead), assignment, take-over of the leases left behind, back-off, artifact, engine, ready.
Whatever raises on the way ends it with a named code; supervisord starts the next life.

Not here: what it waits for (waits), how the parts are built (parts), what others read of its end (last_word).
"""

from __future__ import annotations

import contextlib
import gc
import os

import structlog

from broker import roster
from broker.connection import LOST, Link, NoPermissionError, refused
from broker.errors import ArtifactError, ConfigError, DeviceError, RedisRefused, RedisUnavailable
from broker.queue import Queue
from broker.settings import Settings
from workers import console
from workers.beat import Beat
from workers.blame import Blame
from workers.board import Board
from workers.body_remover import BodyRemover
from workers.custody import Custody
from workers.engine_client import Engine, EngineDied
from workers.exchange import Ready
from workers.exits import KILLED, Exit
from workers.incarnation import Incarnation
from workers.last_word import leave_word
from workers.orphan import Countdown
from workers.parts import Parts
from workers.retire import Verdict
from workers.slot import Slot
from workers.take_over import take_over
from workers.waits import Stopped, Waits

log = structlog.get_logger()
REDIS_PATIENCE_S = 30.0
ORPHAN_DRAIN_S = 1.5  # to finish, and again to tell Redis, when the supervisor died
ORPHAN_MOST_S = 4.0


class Life:
    """One incarnation: holds its parts until its end."""

    def __init__(self, settings: Settings, number: int, *, is_inline: bool = False, owns_process: bool = False) -> None:
        """`owns_process`: a loop that hangs ends the process, and its heap is frozen; neither is done to a test's."""
        self.owns_process = owns_process
        self.settings = settings
        self.number = number
        self.name = roster.slot_name(settings.host, number)
        self.is_inline = is_inline
        self.is_orphan = False
        self._countdown = Countdown(ORPHAN_MOST_S, self._give_up) if owns_process else None
        self.waits = Waits(settings, number)
        self.has_ended = False
        self.slot: Slot | None = None
        self.engine: Engine | None = None
        self.beat: Beat | None = None
        self.body_remover: BodyRemover | None = None

    def stop(self) -> None:
        """Asks for the end; safe in a signal handler."""
        self.waits.is_stopping = True
        slot = self.slot
        if slot is not None:
            self._tell(slot)

    def abandon(self) -> None:
        """The supervisor died: nobody restarts this slot any more or ends its engine, so both end within seconds.

        Runs in a signal handler: takes no lock and logs nothing. Its exit says why in Redis.
        """
        if self.is_orphan:
            return
        self.is_orphan = True
        if self._countdown is not None:
            self._countdown.start()
        console.mute()
        self.stop()

    def _give_up(self) -> None:
        """Ends an orphan that something holds up. Its leases are returned by the next life, unmarked: nothing is to blame."""
        with contextlib.suppress(AttributeError, OSError, ValueError):  # not built yet, or closed by the loop meanwhile
            if self.blame.is_ours:
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
        """From the lock to the exit code. Raises ConfigError (of its own files), RedisUnavailable, Stopped; the note says how it
        ended even so."""
        self.incarnation = Incarnation(self.settings.var, self.number)
        try:
            return self._hold()
        except ConfigError:
            self.incarnation.end(Exit.MISCONFIGURED.reason, is_fault=True)
            raise
        except RedisUnavailable:
            self.incarnation.end(Exit.REDIS_LOST.reason, is_fault=False)
            raise
        except Stopped:
            self.incarnation.end(Exit.DRAINED.reason, is_fault=False)
            raise
        finally:
            self.incarnation.close()

    def _hold(self) -> Exit:
        """Lives with what must be given back at the end."""
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
            if self.body_remover is not None:
                self.body_remover.stop()
            link.close()
            self.blame.close()

    def _live(self, link: Link) -> Exit:
        try:
            link.connect_within(REDIS_PATIENCE_S, wait=self.waits.pause)
        except RedisRefused as error:
            self.incarnation.end(Exit.MISCONFIGURED.reason, is_fault=True)  # so that the next life backs off
            log.error("slot cannot start", slot=self.name, error=str(error), retry_in_s=self.incarnation.back_off_s())
            self.waits.pause(self.incarnation.back_off_s())
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
        except ConfigError as error:
            verdict = Verdict(Exit.MISCONFIGURED, str(error))
        except NoPermissionError as error:
            verdict = Verdict(Exit.MISCONFIGURED, str(refused(self._url, error)))
        except Exception as error:  # the process edge: a slot must not stay up without its loop
            log.exception("slot crashed", slot=self.name, next="supervisord starts it again; its leases are returned")
            verdict = Verdict(Exit.CRASHED, " ".join(f"{type(error).__name__}: {error}".split())[:500])
        leave_word(
            link, verdict, board=self.board, incarnation=self.incarnation, custody=self.custody, blame=self.blame,
            beat=self.beat,
        )  # fmt: skip
        return verdict.exit

    # --- the way to ready ---------------------------------------------------------------------

    def _serve(self, link: Link) -> Verdict:
        board = self.board
        board.state = "backing off" if self.incarnation.back_off_s() else "starting"
        assignment = self.waits.assignment(link, board)
        model = assignment.model
        queue = Queue(model, f"{self.name}.{self.incarnation.id}")
        queue.ensure_groups(link)
        board.model = model
        beat = self.beat = Beat(
            board=board,
            queue=queue,
            link=Link(self._url),
            settings=self.settings.slot,
            on_stuck=self._die if self.owns_process and not self.is_inline else None,  # a debugger may hold the loop
            on_steady=self.incarnation.settled,
        )
        beat.start()
        self._take_over(link, queue)  # before the back-off: the jobs need not wait for it
        self.incarnation.begin(model)
        self.waits.back_off(self.incarnation, board, beat.hurry)
        self.blame.begin(self.incarnation.id)
        self.custody.check(assignment.device)
        board.state = "loading"
        board.reason = ""
        beat.hurry()
        parts = Parts(self.settings, assignment, queue=queue, slot=self.name, url=self._url)
        parts.publish()
        engine = self.engine = parts.engine(is_inline=self.is_inline)
        engine.start()
        board.engine_pid = engine.pid
        self.custody.take(engine)
        ready = self.waits.ready(engine)
        version = parts.artifact.spec.version
        self._note_ready(version, ready)
        self.incarnation.ready()
        body_remover = parts.body_remover()
        slot = self.slot = parts.slot(
            link, engine, ready, board=board, blame=self.blame, hurry=beat.hurry, on_settled=self.incarnation.settled,
            body_remover=body_remover,
        )  # fmt: skip
        if body_remover is not None:
            body_remover.start()
            self.body_remover = body_remover  # only now: one that never began cannot be waited for
        if self.waits.is_stopping:
            self._tell(slot)
        log.info("slot ready", slot=self.name, model=model, version=version, device=ready.device,
                 load_s=round(ready.load_s, 2))  # fmt: skip
        if self.owns_process and not self.is_inline:
            gc.freeze()  # what lives until the end is not walked again: a full collection is ten batches late
        return slot.run()

    def _take_over(self, link: Link, queue: Queue) -> None:
        """The lock proves that all earlier lives of this slot are dead: their leases go back before the model loads."""
        before = self.incarnation.before
        queues = [queue]
        if before.model not in ("", queue.model):
            queues.append(Queue(before.model, queue.consumer))
        take_over(link, queues, slot=self.name, incarnation=self.incarnation, blame=self.blame)

    def _note_ready(self, version: str, ready: Ready) -> None:
        board = self.board
        board.version = version
        board.device = ready.device
        board.load_s = ready.load_s
        board.host_bytes = board.host_baseline_bytes = ready.usage.host_bytes
        board.device_bytes = board.device_baseline_bytes = ready.usage.device_bytes
        board.is_failing = False

    def _die(self) -> None:
        """The loop hangs: the beat ends the process, since nothing else here can."""
        with contextlib.suppress(OSError):
            self.custody.signal()  # should the engine survive that, the next life finds it by the note
        # Not by the log: the loop may hang in it, with its lock.
        console.last_line("slot stuck", slot=self.name, next="it ends itself; the next incarnation returns its leases")
        os._exit(int(Exit.HANG))
