"""Restarting slots: one at a time while the others serve, or all at once. Each slot starts with the settings in force.

One at a time: a spare takes the slot's place where memory and a number are free, else the slot stops and starts again. A ready
slot is stopped only with a place among those that retire (retire.lua), so that its model never has too few ready ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from broker import keys, roster
from broker.connection import Link
from broker.errors import SupervisorError
from broker.queue import Queue
from broker.settings import Settings
from operators import readiness
from operators.desk.exchange import Exchange
from operators.desk.targets import Target
from operators.pool_lock import changing
from operators.supervisor import Supervisor, stop_wait_s
from operators.table import numbered

ASK_EVERY_S = 0.25
FIRST_IN_LINE_MS = 24 * 3_600_000  # a day overdue: slots that are due to retire let this one go first

Say = Callable[[str], None]


class Restarted(msgspec.Struct, frozen=True):
    """What became of one slot. `now` is its number afterwards: a spare has another. `how`: spare, in place, by itself, left."""

    number: int
    model: str
    how: str
    now: int


class Rolling:
    """One restart of several slots. `done` says how far it came, whatever ended it, `halfway` which slot was stopped for it and
    has not been seen ready since."""

    def __init__(
        self, settings: Settings, link: Link, supervisor: Supervisor, *, timeout_s: float, say: Say
    ) -> None:  # fmt: skip
        self._settings = settings
        self._link = link
        self._supervisor = supervisor
        self._timeout_s = timeout_s
        self._say = say
        self.done: list[Restarted] = []
        self.halfway: int | None = None

    def one_at_a_time(self, targets: Sequence[Target]) -> None:
        """Restarts the slots; those that are not ready first, they cost nothing.

        Raises SupervisorError when a slot does not become ready in time: the rest is left alone. Interrupted, the slot under
        way is started again, or keeps its place.
        """
        order = sorted(targets, key=lambda one: (one.is_ready, one.number))
        for place, target in enumerate(order):
            try:
                self.done.append(self._restart(target))
            except BaseException as error:
                left = [one.number for one in order[place + 1 :]]
                rest = f"; left alone: {numbered(left)}" if left else ""
                if not isinstance(error, SupervisorError):
                    self._say(f"stopped at slot {target.number} of {target.model}{rest}")
                    raise
                raise SupervisorError(f"slot {target.number} of {target.model}: {error}{rest}") from None

    def at_once(self, targets: Sequence[Target]) -> None:
        """Stops them together and starts them again. Raises SupervisorError when one does not become ready in time."""
        numbers = [one.number for one in targets]
        since_ms = self._stop_and_start(numbers)
        self.done += [Restarted(one.number, one.model, "in place", one.number) for one in targets]
        self._wait_ready(numbers, since_ms)

    def start_over(self, number: int) -> None:
        """Stops a slot that is not ready and starts it again; does not wait until it is ready. Raises SupervisorError."""
        self._stop_and_start([number])

    def _restart(self, target: Target) -> Restarted:
        number, host = target.number, self._settings.host
        fate = self._fate(target)
        if fate is None and target.is_ready:
            exchange = Exchange(self._settings, self._link, target)
            before = set(roster.assignments(self._link, host))
            self._say(f"slot {number} of {target.model}: asking for a spare")
            if exchange.take_place(timeout_s=self._timeout_s):
                fresh = {n for n, one in roster.assignments(self._link, host).items() if one.model == target.model}
                spare = min(fresh - before, default=number)
                self._say(f"slot {number} of {target.model}: slot {spare} is ready in its place")
                return Restarted(number, target.model, "spare", spare)
            self._say(f"slot {number} of {target.model}: no spare ({exchange.why}); it stops and starts again")
            fate = self._fate(target)
        if fate == "left":
            return self._left(target)
        if fate is not None:
            self._wait_ready([number], None)
            return Restarted(number, target.model, fate, number)
        if target.is_ready:
            self._wait_for_place(target)
        self.halfway = number
        try:
            since_ms = self._stop_and_start([number])
        except SupervisorError:  # it may serve on, another command had the lock: others may retire
            self._link.call("ZREM", keys.retiring(target.model), roster.slot_name(host, number))
            raise
        if self._fate(target) == "left":  # autoscale, or another operator, took it while we waited for a place
            self.halfway = None
            return self._left(target)
        self._wait_ready([number], since_ms)
        self.halfway = None
        self._say(f"slot {number} of {target.model} is ready again")
        return Restarted(number, target.model, "in place", number)

    def _left(self, target: Target) -> Restarted:
        self._say(f"slot {target.number} of {target.model} was taken out of service meanwhile; left alone")
        return Restarted(target.number, target.model, "left", target.number)

    def _fate(self, target: Target) -> str | None:
        """What happened to the slot since the command began, if that settles it."""
        given = roster.assignments(self._link, self._settings.host).get(target.number)
        if given is None or given.model != target.model:
            return "left"
        pid = self._supervisor.slots()[target.number].pid
        return "by itself" if target.pid and pid and pid != target.pid else None

    def _wait_for_place(self, target: Target) -> None:
        """Until enough other slots of the model are ready. Raises SupervisorError when they are not in time."""
        name = roster.slot_name(self._settings.host, target.number)
        queue = Queue(target.model, name)
        ttl_ms = round((self._settings.slot.drain_s + self._timeout_s + 10) * 1000)
        deadline = time.monotonic() + self._timeout_s
        is_said = False
        while not self._link.run_all([queue.ask_to_retire(name, place_ttl_ms=ttl_ms, overdue_ms=FIRST_IN_LINE_MS)])[0]:
            if time.monotonic() > deadline:
                raise SupervisorError(
                    f"too few other slots of {target.model} are ready for it to stop, for {self._timeout_s:g} s; "
                    f"see `penstock status`, or restart it alone with --at-once"
                )
            if not is_said:
                self._say(f"slot {target.number} of {target.model}: waiting until enough others are ready")
                is_said = True
            time.sleep(ASK_EVERY_S)

    def _stop_and_start(self, numbers: Sequence[int]) -> int:
        """Redis' time before. What was stopped is started again, come what may."""
        with changing(self._settings):
            since_ms = roster.now_ms(self._link)
            try:
                self._supervisor.stop_slots(numbers)
            finally:
                given = roster.assignments(self._link, self._settings.host)
                self._supervisor.start_slots(
                    [number for number in numbers if number in given], timeout_s=stop_wait_s(self._settings) + 15.0
                )
        return since_ms

    def _wait_ready(self, numbers: Sequence[int], since_ms: int | None) -> None:
        try:
            readiness.wait_until_ready(
                self._settings, numbers, timeout_s=self._timeout_s, say=self._say, since_ms=since_ms
            )
        except SupervisorError as error:
            raise SupervisorError(str(error).partition("; the pool stays up")[0] + "; see `penstock status`") from None
