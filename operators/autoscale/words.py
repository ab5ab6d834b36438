"""What autoscaling speaks of: the bounds somebody set, what was seen of a model, and what was decided. Plain values."""

from __future__ import annotations

import msgspec


class Bounds(msgspec.Struct, frozen=True):
    """Between how many slots a model is scaled on this host, and within how long what waits shall be done."""

    least: int
    most: int
    target_s: float


class Sight(msgspec.Struct, frozen=True):
    """One model at one moment. Jobs of lanes that are paused are left out of every figure.

    `slots` are those of this host that count: no spare that a retiring slot waits for. Of them some are `ready`, some
    `loading` (on their way, whatever word they say), some `failing` (they cannot load, or wait after deaths).
    """

    at_s: float  # monotonic
    jobs: int = 0  # waiting or claimed
    unclaimed: int = 0
    oldest_s: float = 0.0  # age of the oldest of `jobs`
    ended: int = 0  # since ever, whatever their end
    slots: int = 0
    ready: int = 0
    loading: int = 0
    failing: int = 0
    idle: tuple[int, ...] = ()  # ready slots that hold no job, by their own words; the one to go first in front
    elsewhere: int = 0  # ready on other hosts
    coming_elsewhere: int = 0
    table_per_s: float | None = None  # jobs/s that one slot does by T; None: T is not known
    load_s: float | None = None  # what a slot of the model takes to be ready; None: none has told
    places: int = 0  # slots this host may give the model at most
    paused: frozenset[str] = frozenset()  # lanes nobody claims from
    is_paused: bool = False  # all of them

    @property
    def serving(self) -> int:
        """Slots that work now, on all hosts."""
        return self.ready + self.elsewhere

    @property
    def counted_on(self) -> int:
        """Those and the ones on their way."""
        return self.serving + self.loading + self.coming_elsewhere


class Verdict(msgspec.Struct, frozen=True):
    """How many slots there shall be on this host now, and how many it takes; they differ while a cooldown lasts."""

    wanted: int
    needed: int
    why: str
    is_short: bool = False  # the target is missed, and no further slot may be had
    arrival_per_s: float | None = None
    slot_per_s: float | None = None
    cooldown_s: float = 0.0
