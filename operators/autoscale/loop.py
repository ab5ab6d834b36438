"""Autoscaling in the agent: every few seconds it looks at the models, and says what to do about their slots as `scale` would.

Decides nothing itself (`decide` does) and does nothing itself: the actions it gives are done by the agent's rounds, under the
pool's lock and after a second look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import structlog

from broker import autoscale
from broker.autoscale import State
from broker.connection import Link, ResponseError
from broker.demand import Demand, demands
from broker.errors import ConfigError
from broker.roster import Assignment
from broker.settings import Settings
from operators import devices, placement
from operators.autoscale import bounds, sights
from operators.autoscale.decide import Scaler
from operators.autoscale.speed import Speeds
from operators.autoscale.words import Bounds, Sight, Verdict
from operators.hardware import Hardware
from operators.places import Action, Place, Seen
from operators.plan import assignment
from operators.swap import DEVICE_MARGIN_BYTES, HOST_MARGIN_BYTES

LOOK_S = 2.0
KIND = "autoscale"

log = structlog.get_logger()


class Autoscale:
    """The memory of one agent. `hardware`: the host's GPUs as seen last."""

    def __init__(
        self, settings: Settings, *, hardware: Callable[[], Hardware | None],
        free_host_bytes: Callable[[], int | None] = devices.free_host_bytes,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._hardware = hardware
        self._free_host_bytes = free_host_bytes
        self._speeds = Speeds(settings.host)
        self._scalers: dict[str, Scaler] = {}
        self._load_s: dict[str, float] = {}
        self._next_s = 0.0
        self._states: dict[str, State] = {}
        self._due: dict[str, tuple[int, Verdict]] = {}  # model -> slots seen, verdict to carry out
        self._leaving: dict[int, str] = {}

    def told(self) -> str:
        """What it decided last, for the agent's hash."""
        return autoscale.encode(self._states)

    def look(self, link: Link, seen: Seen, now: float) -> bool:
        """Whether there is something to do. Raises one of connection.LOST."""
        if now >= self._next_s:
            self._next_s = now + LOOK_S
            self._due = {}
            try:
                self._look(link, seen, now)
            # A key that is garbled must not cost a round its other work.
            except (ResponseError, ValueError, OverflowError) as error:
                log.warning("autoscale could not look", error=str(error), retry_in_s=LOOK_S)
        return bool(self._due or self._gone(seen))

    def actions(self, seen: Seen, plan: Sequence[Action] = ()) -> list[Action]:
        """What to do by this look, the second one: what has changed since the first is left for the next. `plan` is done before."""
        taken = {action.number for action in plan}
        actions = [Action("forget", number, model=model) for number, model in self._gone(seen).items()]
        for action in actions:
            del self._leaving[action.number]
        due, self._due = self._due, {}
        room = self._settings.pool.most_slots - sights.all_counted(seen)
        for model, (slots, verdict) in due.items():
            own = sights.counted(seen, model)
            if len(own) != slots:
                continue
            refused = ""
            if verdict.wanted > slots:
                more, refused = self._up(seen, model, own, verdict, taken, room)
                taken |= {action.number for action in more}
                room -= sum(action.verb == "start" for action in more)
                actions += more
            elif verdict.wanted < slots:
                actions += self._down(seen, model, slots, verdict)
            else:
                actions.append(Action("want", own[0].number if own else 0, model=model, count=slots))
            if refused and refused != self._states[model].refused:
                log.warning("autoscale refused", model=model, error=refused, next="it tries again at each look")
            self._states[model] = msgspec.structs.replace(self._states[model], refused=refused)
        return actions

    def _look(self, link: Link, seen: Seen, now: float) -> None:
        chosen = bounds.in_force(self._settings, autoscale.overrides(link, self._settings.host))
        for model in self._scalers.keys() - chosen.keys():
            del self._scalers[model]
            self._states.pop(model, None)
        for model, demand in demands(link, list(chosen), seen.now_ms).items():
            sight = self.sight(link, model, seen, demand, now)
            verdict = self._scalers.setdefault(model, Scaler()).look(sight, chosen[model])
            self._states[model] = state(
                sight, chosen[model], verdict, self._states[model].refused if model in self._states else ""
            )
            # An agent that died between a slot and its word leaves them apart; whoever changes slots now holds the lock.
            if verdict.wanted != sight.slots or demand.wanted.get(self._settings.host, 0) != sight.slots:
                self._due[model] = (sight.slots, verdict)
            else:
                self._states[model] = msgspec.structs.replace(self._states[model], refused="")

    def sight(self, link: Link, model: str, seen: Seen, demand: Demand, now: float) -> Sight:
        """The model's figures. Raises one of connection.LOST."""
        own = sights.counted(seen, model)
        given = own[0].assignment if own else None
        found = sights.sight(
            self._settings, model, seen, demand, at_s=now, load_s=self._load_s.get(model),
            rows_per_s=self._speeds.rows_per_s(link, given or assignment(self._settings, model), now),
        )  # fmt: skip
        if found.load_s is not None:
            self._load_s[model] = found.load_s
        return found

    def _up(
        self, seen: Seen, model: str, own: list[Place], verdict: Verdict, taken: set[int], room: int
    ) -> tuple[list[Action], str]:
        """Starts of as many slots as there is room for, and why there is none for the rest. `room`: what pool.most_slots leaves."""
        spoken_for = {*taken, *seen.requests, *(request.spare for request in seen.requests.values())}
        free = [number for number, place in sorted(seen.places.items())
                if place.assignment is None and place.is_at_rest and number not in spoken_for]  # fmt: skip
        wish = assignment(self._settings, model)
        asked, count = verdict.wanted - len(own), len(own)
        fitting, refused = self._fitting(own, wish, asked)
        if not refused and asked > room:  # another model came first at this very look
            refused = f"other models take the rest of pool.most_slots = {self._settings.pool.most_slots}"
        elif not refused and asked > len(free):
            refused = "no slot number is free"
        actions: list[Action] = []
        for number in free[: max(0, min(fitting, room))]:
            try:
                given = self._placed(seen, {number: wish}, actions)[number]
            except ConfigError as error:
                refused = str(error)
                break
            count += 1
            actions += [
                Action("assign", number, assignment=given),
                Action("start", number, KIND, f"{model}: {count} slots; {verdict.why}"),
                Action("want", number, model=model, count=count),
            ]
        return actions, refused

    def _placed(self, seen: Seen, wish: dict[int, Assignment], before: list[Action]) -> dict[int, Assignment]:
        listed = self._hardware()
        if listed is None and any(placement.is_auto(one.device) for one in wish.values()):
            # Not asked here: a driver that hangs must not stop the agent's beat.
            raise ConfigError("no NVIDIA driver has answered the agent yet; see `penstock doctor`")
        held = {number: place.assignment for number, place in seen.places.items() if place.assignment}
        held |= {one.number: one.assignment for one in before if one.verb == "assign" and one.assignment}
        told = {
            number: {"state": place.word, "device_bytes": str(place.device_bytes or "")}
            for number, place in seen.places.items()
        }
        return placement.place(self._settings, wish, held=held, told=told, listed=listed)

    def _fitting(self, own: list[Place], wish: Assignment, asked: int) -> tuple[int, str]:
        """How many more fit into memory as measured, and what is short. What is not known does not stand in the way: `most` does."""
        device = wish.device
        coming = sum(not place.is_ready for place in own)  # what they will take still looks free
        rooms = [
            (
                "host memory",
                max((place.host_bytes for place in own), default=0),
                HOST_MARGIN_BYTES,
                self._free_host_bytes(),
            )
        ]
        if device != "cpu" and not placement.is_auto(device):
            taken = max((place.device_bytes or 0 for place in own), default=0)
            rooms.append((device, taken, DEVICE_MARGIN_BYTES, devices.free_device_bytes(device)))
        for what, taken, margin, free in rooms:
            if taken and free is not None and free < (asked + coming) * (taken + margin):
                why = f"{(taken + margin) >> 20} MB of {what} needed for each, {free >> 20} MB free"
                return max(0, free // (taken + margin) - coming), why
        return asked, ""

    def _down(self, seen: Seen, model: str, slots: int, verdict: Verdict) -> list[Action]:
        """One idle slot less. Unassigned first: one that restarts in between must not load again."""
        idle = sights.idle(seen, model)
        if not idle:
            return []
        number = idle[0]
        self._leaving[number] = model
        return [
            Action("want", number, model=model, count=slots - 1),
            Action("assign", number),
            Action("stop", number, KIND, f"{model}: {slots - 1} slots; {verdict.why}"),
        ]

    def _gone(self, seen: Seen) -> dict[int, str]:
        """Slots that were asked to leave and have ended."""
        for number in [
            one for one in self._leaving if one not in seen.places or seen.places[one].assignment is not None
        ]:
            del self._leaving[number]  # somebody gave it work again
        return {number: model for number, model in self._leaving.items() if seen.places[number].is_at_rest}


def state(sight: Sight, chosen: Bounds, verdict: Verdict, refused: str = "") -> State:
    """What is published of a decision."""
    return State(
        least=chosen.least, most=chosen.most, target_s=chosen.target_s, slots=sight.slots, wanted=verdict.wanted,
        needed=verdict.needed, why=verdict.why, is_short=verdict.is_short, jobs=sight.jobs, oldest_s=sight.oldest_s,
        arrival_per_s=verdict.arrival_per_s, slot_per_s=verdict.slot_per_s, refused=refused,
    )  # fmt: skip
