"""What the agent keeps in mind of its host, to give it back to a Redis that was emptied: what slots serve, and what was said of autoscaling.

Not what was queued, and nothing of other hosts: their agents do the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from broker import autoscale, roster
from broker.arrangement import arrange
from broker.autoscale import Override
from broker.connection import Link
from broker.roster import Assignment
from operators.places import Seen
from operators.wishes import passing


class Kept:
    """The memory of one agent."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._assigned: dict[int, Assignment] = {}
        self._overrides: Mapping[str, Override] = {}
        self.is_missed = False  # Redis forgot it

    def keep(self, link: Link, seen: Seen) -> None:
        """Remembers the assignments, without spares that have not taken over, and sees when Redis forgot them.

        A command that takes slots away leaves its word in `wanted`; a Redis that was emptied, however long ago, has none.
        """
        beside = passing(seen.requests)
        found = {n: place.assignment for n, place in seen.places.items() if place.assignment and n not in beside}
        if found:
            self._assigned, self._overrides = found, seen.overrides
        elif any(self._host in roster.wanted(link, given.model) for given in self._assigned.values()):
            self._assigned = {}
        self.is_missed = bool(self._assigned) and not found

    def give_back(self, link: Link) -> str:
        """What was given back, in words, "" for nothing. To be called under the pool's lock.

        After a FLUSHALL a slot that starts again would serve nothing, and a model that was taken off autoscale would be scaled.
        """
        if not self.is_missed:
            return ""
        self.is_missed = False
        if roster.assignments(link, self._host):
            return ""
        newer = autoscale.overrides(link, self._host)  # said since
        overrides = {model: wish for model, wish in self._overrides.items() if model not in newer}
        # These first: who is killed behind them finds the assignments missing, and does it again.
        for model, wish in overrides.items():
            autoscale.override(link, self._host, model, wish)
        counts = Counter(given.model for given in self._assigned.values())
        arrange(link, self._host, wanted=counts, assigned=self._assigned)
        more = f", {len(overrides)} of autoscale" if overrides else ""
        return f"Redis was emptied; {len(self._assigned)} assignments{more} given back"
