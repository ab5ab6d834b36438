"""A slot's side of overlap: it asks for a spare before it retires, and learns whether one comes. Never stops the slot itself.

The answer to a granted request is a TERM, once the spare is ready. Without an agent, without memory for a spare, or without an
answer in time the slot retires as if overlap were off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from broker import overlap
from broker.connection import Command
from broker.overlap import Request
from workers.retire import Verdict

LOOK_EVERY_S = 0.25
ANSWER_WITHIN_S = 30.0  # beside the time a spare may load

log = structlog.get_logger()


class Overlap:
    """The request of one incarnation. Times are monotonic seconds."""

    def __init__(
        self, *, name: str, pid: int, model: str, load_timeout_s: float, redis_ms: Callable[[], float]
    ) -> None:
        self._host, _, number = name.rpartition("/")
        self._number = int(number)
        self._pid = pid
        self._model = model
        self._patience_s = load_timeout_s + ANSWER_WITHIN_S
        self._redis_ms = redis_ms
        self._due_since: float | None = None
        self._next_look = 0.0
        self._verdict: Verdict | None = None
        self.has_given_up = False
        self.reason: Verdict | None = None  # while the request stands: what a TERM means then

    def pursue(self, verdict: Verdict, now: float, ask: Callable[[Command, Callable[[Any], None]], object]) -> None:
        """Asks, or looks for the answer; `ask` sends one command and hands its reply on."""
        self._verdict = verdict
        self._due_since = now if self._due_since is None else self._due_since
        if now - self._due_since > self._patience_s:
            self._give_up(f"no spare within {self._patience_s:g} s")
        elif now >= self._next_look:
            self._next_look = now + LOOK_EVERY_S
            mine, agent = overlap.look(self._host, self._number)
            ask(agent, self._hear_agent)
            ask(mine, lambda body: self._hear(body, ask))

    def _hear_agent(self, reply: Any) -> None:
        if reply == 0:
            self._give_up("no agent lives on this host")

    def _hear(self, body: Any, ask: Callable[[Command, Callable[[Any], None]], object]) -> None:
        if self.has_given_up or isinstance(body, Exception):
            return
        request = overlap.decode(body) if body is not None else None
        if request is None:
            self.reason = None
            if self._verdict is not None:
                made = Request(self._model, self._verdict.exit.reason, self._pid, round(self._redis_ms()))
                ask(overlap.ask(self._host, self._number, made), self._hear_asked)
        elif request.pid != self._pid:
            return  # of the life before; the agent removes it
        elif request.phase == "refused":
            self._give_up(request.why)
        else:
            self.reason = self._verdict

    def _hear_asked(self, reply: Any) -> None:
        if reply == 1:
            self.reason = self._verdict

    def _give_up(self, why: str) -> None:
        if not self.has_given_up:
            self.has_given_up = True
            self.reason = None
            log.warning("no spare", why=why, next="the slot retires without overlap")
