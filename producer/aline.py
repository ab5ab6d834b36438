"""The asyncio client's connections: `line` and `reader` with awaits. One connection for talks, one per reply list."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from broker.aconnection import AsyncLink
from broker.connection import LOST, Command, ResponseError, refused
from broker.errors import PenstockError, RedisUnavailable
from broker.intake import Intake
from broker.replies import has_forgotten
from producer.line import closed, unanswered
from producer.mailbox import Mailbox
from producer.reader import FIRST_PAUSE_S, MOST_PAUSE_S, SLICE_S, drain_count
from producer.talks import Talk
from producer.tickets import Sink, Ticket

T = TypeVar("T")
WAKE_AT_ONCE = 16
RINGS_AFTER_S = 1.0  # at most, a bell, though nothing came; half of it at least


class AsyncLine:
    """Drives talks, one at a time. Connects at first use; `patience_s` bounds how long Redis may be away."""

    def __init__(self, url: str, *, patience_s: float) -> None:
        self._patience_s = patience_s
        self._lock = asyncio.Lock()
        self._link = AsyncLink(url)
        self._is_closed = False

    async def run(self, talk: Talk[T], *, job_id: str | None = None) -> T:
        """The talk's value. Raises RedisUnavailable, or SubmitUnknown with `job_id` when that may have been queued."""
        give_up_at = time.monotonic() + self._patience_s
        async with self._lock:
            if self._is_closed:
                raise closed()
            replies: Any = None
            while True:
                try:
                    commands = talk.send(replies)
                except StopIteration as stop:
                    value: T = stop.value
                    return value
                try:
                    replies = await self._exchange(commands, give_up_at, job_id)
                except BaseException:
                    talk.close()
                    raise

    async def _exchange(self, commands: Sequence[Command], give_up_at: float, job_id: str | None) -> list[Any]:
        link = self._link
        pause, was_sent, has_reloaded = 0.02, False, False
        while True:
            try:
                if not link.is_connected:
                    await link.connect_within(max(0.0, give_up_at - time.monotonic()))
                was_sent = True
                replies = await link.call_all(commands)
                if not has_forgotten(replies):
                    return replies
                await link.reload()
                if has_reloaded:
                    raise RedisUnavailable("it forgets its scripts as soon as they are loaded")
                has_reloaded = True
            except ResponseError as error:
                raise refused(link.url, error) from None
            except (*LOST, RedisUnavailable) as error:
                if isinstance(error, RedisUnavailable) and not was_sent:
                    raise
                if time.monotonic() >= give_up_at:
                    raise unanswered(error, self._patience_s, job_id) from None
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, 1.0)

    async def close(self) -> None:
        """Waits for the talk under way, then hangs up."""
        async with self._lock:
            self._is_closed = True
            await self._link.close()


class AsyncReader:
    """Reads the reply list of one model in a task, while anybody waits."""

    def __init__(self, url: str, intake: Intake, mailbox: Mailbox, *, patience_s: float) -> None:
        self._link = AsyncLink(url)
        self._intake = intake
        self._mailbox = mailbox
        self._patience_s = patience_s
        self._drain_count = drain_count(())
        self._waiting: dict[Ticket | Sink, list[asyncio.Future[None]]] = {}
        self._bells: dict[Ticket, asyncio.Future[None]] = {}
        self._unrung: dict[Ticket, asyncio.Future[None]] = {}  # at the last look at them
        self._ringer: asyncio.TimerHandle | None = None
        self._is_wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def wait(self, target: Ticket | Sink, deadline: float) -> bool:
        """Whether an outcome came for `target` before `deadline` (monotonic). Raises RedisUnavailable."""
        if target._blob is not None:
            return True
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        futures = self._waiting.setdefault(target, [])
        futures.append(future)
        self._want()
        # A timer of its own: asyncio.wait would cost three times as much, for each of tens of thousands of jobs a second.
        timer = loop.call_later(max(0.001, deadline - time.monotonic()), _give_up, future)
        try:
            await future
        finally:
            timer.cancel()
            if self._waiting.get(target) is futures:  # timed out, or this task was cancelled
                futures.remove(future)
                if not futures:
                    del self._waiting[target]
        return target._blob is not None

    def bell(self, ticket: Ticket) -> asyncio.Future[None]:
        """Rung when the outcome of `ticket` comes, and within RINGS_AFTER_S in any case: whoever waits longer calls `wait`.
        Needs no timer of its own."""
        bell = self._bells[ticket] = asyncio.get_running_loop().create_future()
        if self._ringer is None:
            self._ringer = asyncio.get_running_loop().call_later(RINGS_AFTER_S / 2, self._ring)
        self._want()
        return bell

    def silence(self, ticket: Ticket) -> None:
        """Its bell is no longer heard."""
        self._bells.pop(ticket, None)

    def _ring(self) -> None:
        for ticket, bell in self._unrung.items():
            if self._bells.get(ticket) is bell and not bell.done():
                bell.set_result(None)
        self._unrung = dict(self._bells)
        self._ringer = None
        if self._unrung:
            self._ringer = asyncio.get_running_loop().call_later(RINGS_AFTER_S / 2, self._ring)

    def _want(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._read())
        self._is_wanted.set()

    def take(self, outcome: bytes) -> None:
        """Routes an outcome that came another way than by the reply list."""
        ticket = self._mailbox.route(outcome)
        if ticket is not None:
            self._wake((ticket,))

    async def close(self) -> None:
        if self._ringer is not None:
            self._ringer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._fail(closed())
        await self._link.close()

    async def _read(self) -> None:
        link, intake = self._link, self._intake
        pause = FIRST_PAUSE_S
        while True:
            if not self._waiting and not self._bells:
                self._is_wanted.clear()
                await self._is_wanted.wait()
            try:
                if not link.is_connected:
                    await link.connect_within(self._patience_s)
                commands = [intake.wait(SLICE_S)]
                if len(self._mailbox) > 1:
                    commands.append(intake.drain(self._drain_count))
                popped, *drained = await link.call_all(commands)
                if isinstance(popped, Exception):
                    raise refused(link.url, popped)
                pause = FIRST_PAUSE_S
                if popped is not None:
                    await self._wake_in_turns(self._mailbox.route_all((popped[1],)))
                if drained and isinstance(drained[0], list):
                    await self._wake_in_turns(self._mailbox.route_all(drained[0]))
                    self._drain_count = drain_count(drained[0])
            except LOST:
                # Connects again; what was popped for us and lost is found by its stored result.
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, MOST_PAUSE_S)
            except PenstockError as error:
                self._fail(error)
                await asyncio.sleep(FIRST_PAUSE_S)

    async def _wake_in_turns(self, tickets: Sequence[Ticket]) -> None:
        """Lets those woken first submit again before the rest is woken. Many senders who wait for each other's batch would all
        go on at once otherwise, and this process and the slot would work in turns instead of side by side."""
        for at in range(0, len(tickets), WAKE_AT_ONCE):
            if self._wake(tickets[at : at + WAKE_AT_ONCE]):
                await asyncio.sleep(0)

    def _wake(self, tickets: Iterable[Ticket]) -> int:
        """How many were waiting for these."""
        woken = 0
        for ticket in tickets:
            bell = self._bells.pop(ticket, None)
            if bell is not None and not bell.done():
                bell.set_result(None)
                woken += 1
            for target in (ticket, ticket._sink) if self._waiting else ():
                for future in self._waiting.pop(target, ()) if target is not None else ():
                    if not future.done():
                        future.set_result(None)
                        woken += 1
        return woken

    def _fail(self, error: PenstockError) -> None:
        for bell in self._bells.values():
            if not bell.done():
                bell.set_result(None)
        waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)


def _give_up(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
