"""The agent's second thread: once a second it looks at its host and at the models, and does what was decided.

What changes the pool is done only while no operator's command does (var/pool.lock), after a second look under that lock. Kills
of stuck slots, delayed jobs and leases of the dead wait for nobody.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from broker import autoscale, embedded, overlap, roster
from broker.connection import LOST, Link, ResponseError, is_missing_group
from broker.errors import DecodeError, PenstockError, RedisUnavailable
from broker.queue import Queue
from broker.settings import Settings
from operators import hardware
from operators.agent_view import look
from operators.autoscale.loop import Autoscale
from operators.deaths import Deaths
from operators.hardware import Hardware
from operators.kept import Kept
from operators.places import Action, Seen
from operators.reconcile import Reconciler
from operators.record import Record
from operators.supervisor import Supervisor, SupervisorRefused
from operators.swap import swaps

ROUND_S = 1.0
BUSY_ROUND_S = 0.25  # while a swap is under way: two copies of a model take the memory of two
LEAST_PAUSE_S = 0.1  # events hasten a round, a storm of them must not make a tight loop
SWEEP_MOST_S = 1.0
STALLED_S = 2.0  # an answer that took so long: Redis stood still, and the slots' renewals with it
WARN_EVERY_S = 30.0

log = structlog.get_logger()


class Rounds(threading.Thread):
    """Runs until `stop`. Neither Redis nor supervisord may end it by being away."""

    def __init__(
        self, settings: Settings, *, supervisor: Supervisor, link: Link, record: Record, reconciler: Reconciler, deaths: Deaths,
        scaling: Autoscale, gpus: Callable[[], Hardware | None], clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        super().__init__(name="rounds", daemon=True)
        self._settings = settings
        self._supervisor = supervisor
        self._link = link
        self._record = record
        self._reconciler = reconciler
        self._deaths = deaths
        self._scaling = scaling
        self._gpus = gpus
        self._clock = clock
        self._over = threading.Event()
        self._soon = threading.Event()
        self._next_sweep = self._next_warning = 0.0
        self._since_ms = 0
        self._round_s = ROUND_S
        self._kept = Kept(settings.host)

    def hasten(self) -> None:
        """Something happened: the next round comes at once."""
        self._soon.set()

    def stop(self) -> None:
        """Ends the thread and waits for it."""
        self._over.set()
        self._soon.set()
        self.join(10)

    def run(self) -> None:
        while not self._over.is_set():
            try:
                if self._link.fileno() < 0:
                    self._link.connect()
                    # Slots were perhaps cut off as well: each renews its leases before anybody sweeps.
                    self._next_sweep = self._clock() + self._settings.slot.lease_s
                self.round(self._clock())
            except (*LOST, RedisUnavailable) as error:
                self._link.close()
                self._away("redis does not answer", error)
            except DecodeError as error:
                self._away("redis holds what nobody can read", error)
            except PenstockError as error:
                self._away("supervisord does not answer", error)
            except Exception:  # the thread's edge: an agent without rounds would beat no more and do nothing
                log.exception("round failed", retry_in_s=ROUND_S)
                self._reconciler.lost()
                self._soon.clear()
            self._over.wait(LEAST_PAUSE_S)
            self._soon.wait(self._round_s - LEAST_PAUSE_S)
            self._soon.clear()
        self._link.close()

    def round(self, now: float) -> None:
        """One look and what follows from it. Raises SupervisorError, or one of connection.LOST."""
        began = self._clock()
        now_ms = self._beat()
        self._note_stall(began)
        self._serve_models(now, now_ms)
        self._note_stall(began)
        self._record.take_events(self._link)
        seen = look(self._link, self._supervisor, now_ms)
        self._kept.keep(self._link, seen)
        self._deaths.watch(place.pid for place in seen.places.values() if place.is_up)
        self._record.compare(self._link, seen)
        for number in self._record.take_starts():
            self._reconciler.started(number, now)
        self._do(self._reconciler.stuck(seen, now), now)
        is_scaling = self._scaling.look(self._link, seen, now)
        if is_scaling or self._kept.is_missed or self._plan(seen) or self._reconciler.wanted(seen, now):
            with self._changing() as is_ours:
                if is_ours:
                    self._give_back()
                    seen = look(self._link, self._supervisor, now_ms)
                    plan = self._plan(seen)
                    self._do([*plan, *self._scaling.actions(seen, plan), *self._reconciler.wanted(seen, now)], now)
        self._round_s = BUSY_ROUND_S if any(one.spare >= 0 for one in seen.requests.values()) else ROUND_S
        self._record.write(self._link)

    def _plan(self, seen: Seen) -> list[Action]:
        return swaps(seen, load_timeout_s=self._settings.slot.load_timeout_s)

    def _beat(self) -> int:
        told = {autoscale.FIELD: self._scaling.told(), hardware.FIELD: hardware.encode(self._gpus())}
        state: dict[str, str | int] = {"pid": os.getpid(), **told}
        if self._since_ms:
            state["since_ms"] = self._since_ms
        now_ms = roster.beat_agent(self._link, self._settings.host, state)
        self._since_ms = self._since_ms or now_ms
        return now_ms

    def _note_stall(self, began: float) -> None:
        if self._clock() - began > STALLED_S:
            self._next_sweep = self._clock() + self._settings.slot.lease_s

    def _serve_models(self, now: float, now_ms: int) -> None:
        """Delays and leases of the dead, for models of which no slot is ready anywhere: the slots' beats do it else."""
        models = roster.models(self._link)
        orphans = [model for model, ready in roster.ready_of(self._link, models, now_ms).items() if not ready]
        is_sweeping = now >= self._next_sweep
        if is_sweeping:
            self._next_sweep = now + min(self._settings.slot.lease_s / 2, SWEEP_MOST_S)
        for model in orphans:
            queue = Queue(model, f"agent@{self._settings.host}")
            commands = [queue.move()]
            if is_sweeping:
                commands.append(queue.sweep(lease_ms=round(self._settings.slot.lease_s * 1000), now_ms=now_ms))
            for reply in self._link.call_all(commands):
                if isinstance(reply, ResponseError) and "NOSCRIPT" in str(reply):
                    self._link.reload()
                elif isinstance(reply, ResponseError) and not is_missing_group(reply):
                    log.warning("model not served", model=model, error=str(reply), retry_in_s=ROUND_S)

    def _do(self, actions: Sequence[Action], now: float) -> None:
        refused: set[int] = set()
        for action in actions:
            if action.number in refused:
                continue
            try:
                self._act(action)
            except (SupervisorRefused, ResponseError) as error:  # the other slots must not wait for this one
                refused.add(action.number)
                self._tell(action, f"refused: {error}")
            else:
                self._tell(action, action.why)
            self._reconciler.did(action, now)

    def _act(self, action: Action) -> None:
        host, number = self._settings.host, action.number
        if action.verb == "kill":
            self._supervisor.kill_slot(number)
        elif action.verb == "start":
            self._supervisor.start_soon(number)
        elif action.verb == "stop":
            self._supervisor.stop_soon(number)
        elif action.verb == "assign":
            roster.assign(self._link, host, number, action.assignment)
        elif action.verb == "want":
            roster.want(self._link, host, action.model, action.count)
        elif action.verb == "answer":
            overlap.write(self._link, host, number, action.request)
        else:
            roster.forget_slot(self._link, roster.slot_name(host, number), action.model)

    def _tell(self, action: Action, detail: str) -> None:
        if action.kind:
            self._record.tell(roster.slot_name(self._settings.host, action.number), action.kind, detail, action.pid)

    def _give_back(self) -> None:
        if told := self._kept.give_back(self._link):
            self._record.tell(f"{self._settings.host}/agent", "restore", told)

    @contextmanager
    def _changing(self) -> Iterator[bool]:
        """Whether the pool is ours to change for the block; an operator's command goes first."""
        lock = embedded.take_lock(self._settings.var / "pool.lock")
        if lock is None:
            yield False
            return
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()} (the agent)\n".encode(), 0)
            yield True
        finally:
            os.close(lock)

    def _away(self, what: str, error: Exception) -> None:
        self._reconciler.lost()
        self._soon.clear()  # what came is known; without an answer there is no hurry
        now = self._clock()
        if now >= self._next_warning:
            self._next_warning = now + WARN_EVERY_S
            log.warning(what, error=str(error), retry_in_s=ROUND_S, next="nobody is judged meanwhile")
