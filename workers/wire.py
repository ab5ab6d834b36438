"""A Link with several commands under way: each reply finds the handler it was sent with, in order.

A script the server forgot is loaded and run again. What was under way when the connection broke is forgotten: the slot
knows what is safe to repeat.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from broker.connection import SCRIPTS, Command, Link, NoScriptError, ResponseError

Handler = Callable[[Any], object]  # what it returns is nobody's
Pair = tuple[Command, Handler]
_command: Callable[[Pair], Command] = itemgetter(0)


class Wire:
    """Commands with handlers. Handlers get the reply, or the ResponseError Redis answered with."""

    def __init__(self, link: Link) -> None:
        self.link = link
        link.is_watched = True
        self.losses = 0  # connections that took replies along
        self.under_way: deque[Pair] = deque()  # replies are awaited; plain, as the loop asks many times a job

    def send(self, *pairs: Pair) -> None:
        """Sends without waiting. Raises one of connection.LOST."""
        self.under_way.extend(pairs)
        self.link.send(*map(_command, pairs))

    def pump(self) -> None:
        """Reads every reply that is there, at least one. Raises one of connection.LOST."""
        self._read_one()
        while self.under_way and self.link.has_reply():
            self._read_one()

    def forget(self) -> None:
        """Drops what was under way: its replies will never come."""
        self.under_way.clear()
        self.losses += 1

    def _read_one(self) -> None:
        try:
            reply: Any = self.link.read()
        except NoScriptError:
            command, handler = self.under_way.popleft()
            loads = [(("SCRIPT", "LOAD", source), _loaded) for source, _ in SCRIPTS.values()]
            self.send(*loads, (command, handler))
            return
        except ResponseError as error:
            reply = error
        _, handler = self.under_way.popleft()
        handler(reply)


def _loaded(reply: Any) -> None:
    if isinstance(reply, Exception):  # it would be asked to run what it does not take, for ever
        raise reply
