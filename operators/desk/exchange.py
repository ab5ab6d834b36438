"""A slot's place given to a spare before it stops: the command asks, the agent does it (operators/swap.py), we watch.

The request is the one a slot writes that retires with overlap, so the agent weighs memory and free numbers as ever, and ends
what is under way when this command dies. Nothing here stops a slot.
"""

from __future__ import annotations

import contextlib
import time

import msgspec

from broker import overlap, roster
from broker.connection import Link
from broker.errors import SupervisorError
from broker.overlap import Request
from broker.settings import Settings
from operators.desk.targets import Target
from operators.pool_lock import changing
from operators.supervisor import stop_wait_s

POLL_S = 0.1
ANSWER_WITHIN_S = (
    30.0  # until the agent has answered at all; it looks once a second, or waits for an operator's command
)
GONE_WITHIN_S = 20.0  # a spare that loads hears TERM at once


class Exchange:
    """One slot's exchange for a spare."""

    def __init__(self, settings: Settings, link: Link, target: Target) -> None:
        self._host = settings.host
        self._settings = settings
        self._link = link
        self._target = target
        self.why = ""  # of a refusal

    def take_place(self, *, timeout_s: float) -> bool:
        """True when a spare is ready in the slot's place and the slot has ended; False when there can be none, see `why`.

        Raises SupervisorError when the spare does not become ready in time: it is taken back, the slot serves on.
        """
        if not roster.agent(self._link, self._host):
            self.why = "no agent lives on this host"
            return False
        if not self._ask():
            return False
        try:
            return self._follow(timeout_s)
        except BaseException:  # Ctrl-C too: the spare goes, the slot stays
            self._take_back("the command was given up")
            raise

    def _ask(self) -> bool:
        target = self._target
        old = self._read()
        if old is not None and old.phase == "refused" and old.spare < 0:
            overlap.write(self._link, self._host, target.number, None)  # an answer of before
        request = Request(target.model, "restart", target.pid, roster.now_ms(self._link))
        is_new = self._link.call(*overlap.ask(self._host, target.number, request))
        if not is_new and self._read() is None:  # one of this life may stand: the slot retires by itself, we watch
            self.why = "an exchange of its life before is not over"
            return False
        return True

    def _follow(self, timeout_s: float) -> bool:
        number = self._target.number
        began, since_ms = time.monotonic(), roster.now_ms(self._link)
        spare = -1
        while True:
            request, waited_s = self._read(), time.monotonic() - began
            if request is None:
                if number not in roster.assignments(self._link, self._host):
                    return True
                self.why = "the slot has started again by itself"
                return False
            spare = max(spare, request.spare)
            if request.phase == "refused":
                if request.spare < 0:
                    overlap.write(self._link, self._host, number, None)
                    if spare >= 0:
                        raise SupervisorError(request.why + self._last_words(spare, since_ms))
                    self.why = request.why
                    return False
            elif request.phase == "asked" and waited_s > ANSWER_WITHIN_S and self._withdraw():
                self.why = f"the agent gave no answer within {ANSWER_WITHIN_S:g} s"
                return False
            elif request.phase == "loading" and waited_s > timeout_s:
                self._take_back(f"slot {request.spare} was not ready within {timeout_s:g} s")
                why = f"its spare, slot {spare}, was not ready within {timeout_s:g} s"
                raise SupervisorError(why + self._last_words(spare, since_ms))
            elif request.phase == "swapping" and waited_s > timeout_s + stop_wait_s(self._settings) + ANSWER_WITHIN_S:
                raise SupervisorError(f"its spare, slot {request.spare}, is ready, but it does not end")
            time.sleep(POLL_S)

    def _withdraw(self) -> bool:
        """Takes back what the agent has not answered; False where it has, or will at once. Under the lock the agent answers under:
        a spare it has just given would be in no request, and stay as one slot too many."""
        with contextlib.suppress(SupervisorError), changing(self._settings):
            request = self._read()
            if request is not None and request.phase == "asked":
                overlap.write(self._link, self._host, self._target.number, None)
                return True
        return False

    def _take_back(self, why: str) -> None:
        """Asks the agent to take the spare back, unless it is ready already: then the exchange is ended instead."""
        number = self._target.number
        with contextlib.suppress(SupervisorError), changing(self._settings):  # the agent writes under this lock only
            request = self._read()
            if request is None or request.phase == "swapping":
                return
            if request.phase == "asked":
                overlap.write(self._link, self._host, number, None)
                return
            if request.phase == "loading":
                overlap.write(
                    self._link, self._host, number, msgspec.structs.replace(request, phase="refused", why=why)
                )
        deadline = time.monotonic() + GONE_WITHIN_S
        while time.monotonic() < deadline:
            request = self._read()
            if request is None or request.spare < 0:
                overlap.write(self._link, self._host, number, None)
                return
            time.sleep(POLL_S)

    def _last_words(self, spare: int, since_ms: int) -> str:
        """Why the spare ended, where it was not by our stop."""
        name = roster.slot_name(self._host, spare)
        said = [one for one in roster.exits(self._link, 50) if one.slot == name and one.at_ms >= since_ms]
        return next((f" ({one.reason}: {one.detail})" for one in said if one.reason != "drained"), "")

    def _read(self) -> Request | None:
        """The slot's request, if it is of the life we ask for."""
        found = overlap.requests(self._link, self._host).get(self._target.number)
        return found if found is not None and found.pid == self._target.pid else None
