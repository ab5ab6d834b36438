"""What a life waits for on its way to ready: an assignment, its back-off, its engine. Every wait hears a stop.

Not here: what is done between the waits (life).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from broker import roster
from broker.connection import Link
from broker.errors import ArtifactError
from broker.roster import Assignment
from broker.settings import Settings
from workers.board import Board
from workers.engine_client import Engine
from workers.exchange import Ready
from workers.exits import KILLED
from workers.incarnation import Incarnation

log = structlog.get_logger()

WAIT_SLICE_S = 0.1
ASSIGNMENT_EVERY_S = 1.0
READY_EVERY_S = 0.01


class Stopped(Exception):
    """Raised inside a life that was asked to stop before it was ready."""


class Waits:
    """The waits of one slot's life. Each raises Stopped once `is_stopping` is set, which any thread may do."""

    def __init__(self, settings: Settings, number: int) -> None:
        self.is_stopping = False
        self._settings = settings
        self._number = number
        self._name = roster.slot_name(settings.host, number)

    def pause(self, seconds: float) -> None:
        """Sleeps in slices, so that a stop is heard."""
        deadline = time.monotonic() + seconds
        while True:
            if self.is_stopping:
                raise Stopped
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, WAIT_SLICE_S))

    def assignment(self, link: Link, board: Board) -> Assignment:
        """What this slot shall serve; announced as unassigned until somebody says so."""
        is_told = False
        while True:
            assignment = roster.assignments(link, self._settings.host).get(self._number)
            if assignment is not None:
                return assignment
            if not is_told:
                log.warning(
                    "slot has no assignment", slot=self._name, next="it waits; `penstock scale MODEL N` gives one"
                )
                is_told = True
            board.state = "unassigned"
            link.run_all([roster.announce(self._name, board.fields())])
            self.pause(ASSIGNMENT_EVERY_S)

    def back_off(self, incarnation: Incarnation, board: Board, hurry: Callable[[], None]) -> None:
        """After lives that settled nothing, longer each time; `hurry` makes the beat tell why."""
        seconds = incarnation.back_off_s()
        if seconds:
            last = incarnation.before.exit or KILLED
            board.reason = f"{incarnation.note.fruitless} lives in a row settled nothing (last: {last})"
            board.is_failing = True
            hurry()
            log.warning("backing off", slot=self._name, reason=board.reason, retry_in_s=seconds)
            self.pause(seconds)

    def ready(self, engine: Engine) -> Ready:
        """The engine's word that it is warm. Raises ArtifactError when it takes too long, EngineDied when it never comes."""
        load_timeout_s = self._settings.slot.load_timeout_s
        deadline = time.monotonic() + load_timeout_s
        while (ready := engine.poll_ready()) is None:
            if time.monotonic() > deadline:
                raise ArtifactError(f"the model did not load within {load_timeout_s:g} s; raise slot.load_timeout_s")
            self.pause(READY_EVERY_S)
        return ready
