"""Waiting for slots to become ready, and why they do not. Reads Redis and supervisord, changes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from broker import roster
from broker.connection import LOST
from broker.errors import RedisUnavailable, SupervisorError
from broker.settings import Settings
from operators.reach import reach
from operators.supervisor import Supervisor

POLL_S = 0.1
SAY_EVERY_S = 10.0
FAILING_STATES = frozenset({"failing", "backing off"})
FAILING_EXITS = frozenset({"load_failed", "misconfigured"})

Say = Callable[[str], None]


def wait_until_ready(settings: Settings, numbers: Iterable[int], *, timeout_s: float, say: Say) -> None:
    """Returns when the slots are ready. Raises SupervisorError with each one's reason at `timeout_s`, and at once when
    all that are left have said that they cannot load."""
    supervisor = Supervisor(settings)
    deadline = time.monotonic() + timeout_s
    since_ms = _redis_ms(settings)
    left = set(numbers)
    said_at = time.monotonic()
    while left:
        try:
            troubles = _not_ready(settings, supervisor, left, since_ms)
        except (*LOST, RedisUnavailable):  # it may be restarting; the deadline bounds it
            troubles = dict.fromkeys(left, _Trouble("Redis does not answer", is_final=False))
        left = set(troubles)
        is_over = time.monotonic() > deadline
        if left and (is_over or all(trouble.is_final for trouble in troubles.values())):
            lines = "; ".join(f"slot {number}: {trouble.text}" for number, trouble in sorted(troubles.items()))
            after = f" within {timeout_s:g} s" if is_over else ""
            raise SupervisorError(
                f"{count_of(len(left), 'slot')} not ready{after}: {lines}; the pool stays up, "
                f"see `penstock status` and {settings.var / 'log'}"
            )
        if left:
            if time.monotonic() - said_at > SAY_EVERY_S:
                said_at = time.monotonic()
                say(
                    f"waiting for {count_of(len(left), 'slot')}: "
                    + "; ".join(sorted({t.text for t in troubles.values()}))
                )
            time.sleep(POLL_S)


def last_line(path: str | Path) -> str:
    """The last line of a log, or nothing."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.path.getsize(path) - 4096))
            lines = log.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""


def count_of(number: int, noun: str) -> str:
    """1 slot, 2 slots."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class _Trouble(msgspec.Struct, frozen=True):
    text: str
    is_final: bool  # it will not become ready without a change


def _not_ready(
    settings: Settings, supervisor: Supervisor, numbers: Iterable[int], since_ms: int
) -> dict[int, _Trouble]:  # fmt: skip
    link = reach(settings)
    try:
        given = roster.assignments(link, settings.host)
        states = roster.slots(link)
        exits = {one.slot: one for one in reversed(roster.exits(link, 50)) if one.at_ms >= since_ms}
        ready = {name for model in {one.model for one in given.values()} for name in roster.ready(link, model)}
    finally:
        link.close()
    programs = supervisor.slots()
    troubles = {}
    for number in numbers:
        name = roster.slot_name(settings.host, number)
        program, state = programs[number], states.get(name, {})
        # What an earlier incarnation wrote lives on for seconds; only the process supervisord runs now counts.
        is_current = state.get("pid") == str(program.pid)
        if is_current and name in ready:
            continue
        left = exits.get(name)
        if is_current and state.get("state") in FAILING_STATES:
            troubles[number] = _Trouble(state.get("reason") or state["state"], is_final=True)
        elif left is not None and left.reason in FAILING_EXITS:
            troubles[number] = _Trouble(f"{left.reason}: {left.detail}", is_final=True)
        elif is_current:
            troubles[number] = _Trouble(state.get("state", "starting"), is_final=False)
        else:
            words = program.trouble or last_line(program.log)
            troubles[number] = _Trouble(f"no sign of life ({words or program.state})", is_final=False)
    return troubles


def _redis_ms(settings: Settings) -> int:
    link = reach(settings)
    seconds, micros = link.call("TIME")
    link.close()
    return int(seconds) * 1000 + int(micros) // 1000
