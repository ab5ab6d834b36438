"""Waiting for slots to become ready, and why they do not. Reads Redis and supervisord, changes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from broker import roster
from broker.connection import LOST, Link
from broker.errors import RedisUnavailable, SupervisorError
from broker.settings import Settings
from operators.reach import reach
from operators.supervisor import Supervisor
from operators.table import count_of

POLL_S = 0.1
SAY_EVERY_S = 10.0
FAILING_STATES = frozenset({"failing", "backing off"})
FAILING_EXITS = frozenset({"load_failed", "misconfigured"})

Say = Callable[[str], None]


def wait_until_ready(
    settings: Settings, numbers: Iterable[int], *, timeout_s: float, say: Say, since_ms: int | None = None
) -> None:
    """Returns when the slots are ready. Raises SupervisorError with each one's reason at `timeout_s`, and at once when
    all that are left have said since `since_ms` (Redis' time; now, unless given) that they cannot load.

    A back-off is waited for: what it is for may be mended, or was only the death of the supervisord before.
    """
    supervisor = Supervisor(settings)
    deadline = time.monotonic() + timeout_s
    link = reach(settings, is_reading=True)
    since_ms = roster.now_ms(link) if since_ms is None else since_ms
    say_at = time.monotonic() + SAY_EVERY_S
    troubles = dict.fromkeys(numbers, _Trouble("not asked yet", is_final=False))
    served = _served(link, settings)
    try:
        while troubles:
            try:
                if link.fileno() < 0:
                    link.connect()
                troubles = _follow_swaps(troubles, served, _served(link, settings))
                troubles = _not_ready(link, supervisor, troubles, since_ms)
            except (*LOST, RedisUnavailable):  # it may be restarting; the deadline bounds it
                link.close()
                troubles = dict.fromkeys(troubles, _Trouble("Redis does not answer", is_final=False))
            is_over = time.monotonic() > deadline
            if troubles and (is_over or all(trouble.is_final for trouble in troubles.values())):
                raise SupervisorError(_told(settings, troubles, f" within {timeout_s:g} s" if is_over else ""))
            if troubles and time.monotonic() > say_at:
                say_at = time.monotonic() + SAY_EVERY_S
                texts = sorted({trouble.text for trouble in troubles.values()})
                say(f"waiting for {count_of(len(troubles), 'slot')}: {'; '.join(texts)}")
            if troubles:
                time.sleep(POLL_S)
    finally:
        link.close()


def last_line(path: str | Path) -> str:
    """The last line of a log in words, or nothing."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.path.getsize(path) - 4096))
            lines = log.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return _words(lines[-1].strip()) if lines else ""


def _words(line: str) -> str:
    """A slot's log is JSON: the event, and why."""
    try:
        found = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        return line
    parts = (found.get("event"), found.get("reason") or found.get("error") or found.get("detail"))
    return ": ".join(" ".join(str(part).split()) for part in parts if part) or line


class _Trouble(msgspec.Struct, frozen=True):
    text: str
    is_final: bool  # it will not become ready without a change


def _told(settings: Settings, troubles: dict[int, _Trouble], when: str) -> str:
    lines = "; ".join(f"slot {number}: {trouble.text}" for number, trouble in sorted(troubles.items()))
    return (
        f"{count_of(len(troubles), 'slot')} not ready{when}: {lines}; the pool stays up, "
        f"see `penstock status` and {settings.var / 'log'}"
    )


def _served(link: Link, settings: Settings) -> dict[int, str]:
    return {number: given.model for number, given in roster.assignments(link, settings.host).items()}


def _follow_swaps(troubles: dict[int, _Trouble], before: dict[int, str], now: dict[int, str]) -> dict[int, _Trouble]:
    """The agent may have put a spare in a slot's place: then the spare is waited for."""
    fresh = [number for number in now if number not in before and number not in troubles]
    followed = {}
    for number, trouble in troubles.items():
        model = before.get(number)
        spare = next((one for one in fresh if model is not None and now[one] == model), None)
        if number in now or spare is None:
            followed[number] = trouble
        else:
            fresh.remove(spare)
            followed[spare] = trouble
    return followed


def _not_ready(link: Link, supervisor: Supervisor, numbers: Iterable[int], since_ms: int) -> dict[int, _Trouble]:
    host = supervisor.settings.host
    states = roster.slots(link)
    exits = {one.slot: one for one in reversed(roster.exits(link, 50)) if one.at_ms >= since_ms}
    models = {given.model for given in roster.assignments(link, host).values()}
    ready = {name for model in models for name in roster.ready(link, model)}
    programs = supervisor.slots()
    troubles = {}
    for number in numbers:
        name = roster.slot_name(host, number)
        program, state = programs[number], states.get(name, {})
        # What an earlier incarnation wrote lives on for seconds; only the process supervisord runs now counts.
        is_current = state.get("pid") == str(program.pid)
        if is_current and name in ready:
            continue
        left = exits.get(name)
        cannot_load = left is not None and left.reason in FAILING_EXITS
        if is_current and state.get("state") in FAILING_STATES:
            text = state.get("reason") or state["state"]
            why = left.detail if left is not None and left.detail not in text else ""
            text = f"{text}: {why}" if why else text
            troubles[number] = _Trouble(text if cannot_load else f"{text}; it tries again by itself", cannot_load)
        elif left is not None and cannot_load:
            troubles[number] = _Trouble(f"{left.reason}: {left.detail}", is_final=True)
        elif is_current:
            troubles[number] = _Trouble(state.get("state", "starting"), is_final=False)
        else:
            words = program.trouble or last_line(program.log)
            troubles[number] = _Trouble(f"no sign of life ({words or program.state})", is_final=False)
    return troubles
