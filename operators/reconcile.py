"""What the agent does about slots that should run and do not, and about slots that are stuck. Pure: values and a clock in,
actions out.

By level: every look decides from what is seen now; what is remembered between looks only makes it more patient.
"""

from __future__ import annotations

from collections import deque

from broker import keys
from broker.settings_tables import SlotSettings
from operators.places import Action, Place, Seen

RESTED_MOST_S = 60.0
QUICK_DEATHS, QUICK_S = 10, 10.0  # so many starts in so short a time, and not a word: the program itself is broken
LONGEST_GAP_S = 5.0  # the agent itself was away: what it did not watch it does not judge
EXITED_FOR_S = 3.0  # supervisord restarts within a second
KILL_AGAIN_S = 10.0
MARGIN_S = 2.0


def silent_limit_s(slot: SlotSettings) -> float:
    """For how long a slot may announce nothing before it is killed."""
    return max(2 * slot.lease_s, keys.SLOT_TTL_MS / 1000)


class Reconciler:
    """The memory of one agent. Times are monotonic seconds."""

    def __init__(self, *, silent_limit_s: float, hang_limit_s: float) -> None:
        """`silent_limit_s`: a slot that announces nothing; `hang_limit_s`: one that beats while its loop stands still."""
        self.silent_limit_s = silent_limit_s
        self.hang_limit_s = hang_limit_s
        self._watching_since: float | None = None
        self._last_look = 0.0
        self._slots: dict[int, _Past] = {}

    def lost(self) -> None:
        """Redis or supervisord did not answer: what was not seen is not held against anybody."""
        self._watching_since = None

    def started(self, number: int, now: float) -> None:
        """A process of this slot was started, by whomever; many may be between two looks."""
        self._slots.setdefault(number, _Past()).starts.append(now)

    def stuck(self, seen: Seen, now: float) -> list[Action]:
        """Kills: slots that said something once and nothing since, and those whose loop stands still."""
        if self._watching_since is None or now - self._last_look > LONGEST_GAP_S:
            self._watching_since = now
        self._last_look = now
        return [action for place in seen.places.values() if (action := self._judge(place, now)) is not None]

    def wanted(self, seen: Seen, now: float) -> list[Action]:
        """Starts of slots that are assigned and at rest, a pause for programs that end at once time and again, stops of
        slots that belong to nothing. Call `did` for each that is carried out."""
        actions = []
        spoken_for = {*seen.requests, *(request.spare for request in seen.requests.values())}
        # With no assignment and no word of that Redis has been emptied: no reason to stop a slot.
        is_sorted = seen.is_meant or any(place.assignment for place in seen.places.values())
        for place in seen.places.values():
            past = self._past(place)
            past.at_rest_since = (past.at_rest_since or now) if place.is_at_rest else 0.0
            if place.assignment is None:
                if is_sorted and place.is_up and place.number not in spoken_for:
                    actions.append(Action("stop", place.number, "surplus", "it is assigned to nothing"))
            elif place.is_at_rest and now >= past.next_try:
                if place.state != "EXITED" or now - past.at_rest_since >= EXITED_FOR_S:
                    kind = "revive" if place.state == "FATAL" else "start again"
                    actions.append(Action("start", place.number, kind, f"it is wanted and was {place.state}"))
            elif place.is_up and past.is_dying_unheard(now, place.beat_age_s):
                why = f"{QUICK_DEATHS} starts in {QUICK_S:g} s without a word; tried again in {past.pause_s:g} s"
                actions.append(Action("stop", place.number, "pause", why))
        return actions

    def did(self, action: Action, now: float) -> None:
        """An action was carried out, or refused: the next of its kind is put off."""
        past = self._slots.setdefault(action.number, _Past())
        if action.verb == "start" or action.kind == "pause":
            past.starts.clear()
            past.next_try = now + past.pause_s
            past.tries = min(past.tries + 1, 10)

    def _judge(self, place: Place, now: float) -> Action | None:
        past = self._past(place)
        if place.pid != past.pid:
            past.pid, past.heard_at = place.pid, None
        if not place.pid:
            return None
        age_s = place.beat_age_s
        # The age alone is of any pid of this number; the process must be older than the announcement to have made it.
        if age_s is not None and (place.is_current or place.up_s > age_s + MARGIN_S):
            past.heard_at = max(past.heard_at or 0.0, now - age_s)
        if place.is_current:
            past.starts.clear()
            past.tries, past.next_try = 0, 0.0
        if place.state != "RUNNING" or now < past.kill_again:
            return None
        why = ""
        watched_s = now - (self._watching_since if self._watching_since is not None else now)
        if past.heard_at is not None and min(now - past.heard_at, watched_s) > self.silent_limit_s:
            why = f"silent for {now - past.heard_at:.0f} s, limit {self.silent_limit_s:g} s"
        elif place.is_current and place.silent_s > self.hang_limit_s:
            why = f"its loop stands still for {place.silent_s:.0f} s, limit {self.hang_limit_s:g} s"
        if not why:
            return None
        past.kill_again = now + KILL_AGAIN_S
        return Action("kill", place.number, "kill", why, pid=place.pid)

    def _past(self, place: Place) -> _Past:
        return self._slots.setdefault(place.number, _Past())


class _Past:
    """What is remembered of one slot number."""

    def __init__(self) -> None:
        self.pid = 0
        self.heard_at: float | None = None  # when this pid last announced itself
        self.starts: deque[float] = deque(maxlen=QUICK_DEATHS)  # since a pid last said a word
        self.tries = 0
        self.next_try = 0.0
        self.at_rest_since = 0.0
        self.kill_again = 0.0

    def is_dying_unheard(self, now: float, beat_age_s: float | None) -> bool:
        """Whether it was started again and again in a short time, and no life of it announced itself in between.

        A slot that retires every second is seen between two lives at each look; what it announced says that it lives.
        """
        if len(self.starts) < QUICK_DEATHS or now - self.starts[0] >= QUICK_S:
            return False
        return beat_age_s is None or beat_age_s > now - self.starts[0]

    @property
    def pause_s(self) -> float:
        """1 s, 2 s, 4 s ... until a start has been heard of."""
        return min(RESTED_MOST_S, 2.0**self.tries)
