"""What a run looks at beside its rows: whether its program is to end, whether others are to go on, whether the pool can serve it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from broker import keys, roster
from broker.connection import LOST, Link, ResponseError
from broker.errors import RedisUnavailable
from operators.runs.pace import must_yield
from operators.runs.program_context import ProgramContext

LOOK_S = 2.0


class Stopped(msgspec.Struct, frozen=True):
    """Why a turn ended before the run did: the state to leave it in, and a word for the log."""

    state: str
    why: str


class Watch:
    """One turn's."""

    def __init__(
        self,
        link: Link,
        context: ProgramContext,
        *,
        model: str,
        priority: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._context = context
        self._model = model
        self._priority = priority
        self._clock = clock
        self._began = clock()
        self._looked = 0.0
        self._text = ""
        self._slots = 1

    def stopped(self) -> Stopped | None:
        """Whether the program is to end."""
        return Stopped("queued", "the program ends") if self._context.is_stopping() else None

    def is_time_up(self) -> bool:
        """Whether others are to go on."""
        return must_yield(
            self._priority, self._context.waiting(), worked_s=self._clock() - self._began,
            slice_s=self._context.settings.runs.slice_s,
        )  # fmt: skip

    def slots(self) -> int:
        """How many are ready to serve the model, one at least; the last number known while Redis is away."""
        if self._link.fileno() >= 0:
            with suppress(*LOST, RedisUnavailable, ResponseError):
                self._slots = max(1, len(roster.ready(self._link, self._model)))
        return self._slots

    def waits_for(self) -> str:
        """Why no answers come, "" where nothing speaks against it; looked up every two seconds."""
        if self._clock() - self._looked >= LOOK_S:
            self._looked = self._clock()
            try:
                self._text = self._look()
            except (*LOST, RedisUnavailable, ResponseError):
                self._text = ""
        return self._text

    def _look(self) -> str:
        if self._link.fileno() < 0:
            return ""
        paused = self._link.call("HGETALL", keys.paused(self._model))
        if paused:
            lanes = ", ".join(sorted(lane.decode() for lane in paused[::2]))
            return f"{self._model} is paused ({lanes}): `penstock resume {self._model}`"
        if not roster.ready(self._link, self._model):
            return f"no slot of {self._model} is ready; see `penstock status`"
        return ""
