"""How many slots a model needs on this host. Pure: sights and bounds in, a verdict out; remembers rates and its own changes.

Up at once, by as many as it takes, when those that are there and on their way cannot have what waits done in time. Down by
one, after a cooldown, when one fewer would still do with a margin. A slot that loads is never taken back, nor one that works.
"""

from __future__ import annotations

from math import ceil

from operators.autoscale.pace import Pace
from operators.autoscale.words import Bounds, Sight, Verdict

UP_SHARE = 0.85  # of what slots can do: beyond it a queue grows by chance alone
DOWN_SHARE = 0.65  # what one slot fewer may be loaded with
DOWN_WAIT = 0.5  # of the target, with one slot fewer
LEAST_COOLDOWN_S, COOLDOWN_LOADS = 60.0, 15.0  # found by simulation, as the shares: benchmarks/autoscale
STEP_SHARE = 0.25  # of the cooldown, between one slot less and the next
UNKNOWN_LOAD_S = 10.0
# Of slots that hang the speed fades to nothing; beyond these, what it asks for has no meaning.
LEAST_PER_S, MOST_TOLD = 1e-9, 9999
CATCH_UP_LOADS = 1.0  # so many times the load time to bring the wait below the target, once they are ready


class Scaler:
    """The memory of one model. A fresh one begins with a cooldown: what was before it nobody knows."""

    def __init__(self) -> None:
        self.pace = Pace()
        self._slots: int | None = None  # at the last look
        self._up_at_s = self._down_at_s = 0.0

    def look(self, sight: Sight, bounds: Bounds) -> Verdict:
        """What to do now. `wanted` is to be carried out before the next look; the next sight tells whether it was."""
        self.pace.note(sight)
        self._note_change(sight)
        needed, why = self._needed(sight, bounds)
        most = min(bounds.most, sight.places)
        least = min(bounds.least, most)
        wanted = min(max(needed, least), most)
        if wanted != needed:
            why = f"{why}; {wanted} is the {'least' if wanted > needed else 'most'}"
        if sight.is_paused:
            wanted, needed, why = sight.slots, sight.slots, "it is paused"
        elif not sight.slots and bounds.least:
            wanted, why = 0, "all its slots were taken away by hand"
        elif wanted > sight.slots and sight.failing:
            wanted, why = sight.slots, f"{why}; but {sight.failing} cannot load, more would not either"
        elif wanted < sight.slots:
            wanted, why = self._down(sight, bounds, most, why)
        is_late = sight.unclaimed > 0 and sight.oldest_s > bounds.target_s
        return Verdict(
            wanted, needed, why, is_short=is_late and needed > most == sight.slots,
            arrival_per_s=self.pace.arrival_per_s, slot_per_s=self.pace.slot_per_s(sight), cooldown_s=cooldown_s(sight),
        )  # fmt: skip

    def _note_change(self, sight: Sight) -> None:
        """Whoever it was: what `penstock scale` did is given the same time."""
        if self._slots is None or sight.slots > self._slots:
            self._up_at_s = sight.at_s
        elif sight.slots < self._slots:
            self._down_at_s = sight.at_s
        self._slots = sight.slots

    def _needed(self, sight: Sight, bounds: Bounds) -> tuple[int, str]:
        """Slots of this host, whatever the bounds, and the reason in words."""
        if not sight.jobs and self._is_silent(sight):
            return 0, "nothing comes"
        per_slot, arrival = self.pace.slot_per_s(sight), self.pace.arrival_per_s or 0.0
        is_late = sight.unclaimed > 0 and sight.oldest_s > bounds.target_s and not sight.idle
        more = sight.slots + 1 if is_late and sight.counted_on <= sight.serving else sight.slots
        if per_slot is None:
            if not sight.counted_on and sight.jobs:
                return max(1, sight.slots), f"{sight.jobs} jobs wait and no slot is there"
            return more, f"the oldest job is {sight.oldest_s:.3g} s old; what a slot does in a second is not known"
        per_slot = max(per_slot, LEAST_PER_S)
        total, why = _whole(arrival / (per_slot * UP_SHARE)), f"{arrival:.1f} jobs/s come, a slot does {per_slot:.1f}"
        # What is left when a slot that is started now could help: where that is nothing, it would come too late.
        load_s = _load_s(sight)
        left = sight.jobs
        if sight.counted_on:
            left = max(0, round(sight.jobs + (arrival - sight.counted_on * per_slot) * load_s))
        if left > sight.counted_on * per_slot * bounds.target_s:
            catch_up_s = CATCH_UP_LOADS * load_s
            burst = _whole((left + arrival * catch_up_s) / (per_slot * (catch_up_s + bounds.target_s)))
            if burst > total:
                total, why = burst, f"{why}, and {left} of them will wait when one more could be ready"
        needed = max(0, total - sight.elsewhere - sight.coming_elsewhere)
        if more > needed and is_late and not self.pace.is_measured:
            return more, f"{why}, yet the oldest is {sight.oldest_s:.3g} s old"
        return needed, why

    def _down(self, sight: Sight, bounds: Bounds, most: int, why: str) -> tuple[int, str]:
        """One slot less, or why not."""
        now, rest_s = sight.at_s, cooldown_s(sight)
        if sight.loading or sight.failing or sight.ready < sight.slots:
            return sight.slots, f"{why}; but not all of its slots are ready"
        if now - self._down_at_s < STEP_SHARE * rest_s and self._down_at_s:
            return sight.slots, f"{why}; the last went just now"
        if sight.slots <= most:  # else somebody set the bound, and need not wait
            if now - self._up_at_s < rest_s:
                return sight.slots, f"{why}; {now - self._up_at_s:.0f} of {rest_s:.0f} s since the last came"
            per_slot = self.pace.slot_per_s(sight) or 0.0
            left_per_s = (sight.serving - 1) * per_slot
            peak = self.pace.peak_per_s(now - rest_s)
            if peak > DOWN_SHARE * left_per_s and (left_per_s or not self._is_silent(sight)):
                return sight.slots, f"{why}; but {peak:.1f} came within the last {rest_s:.0f} s"
            if sight.unclaimed > left_per_s * DOWN_WAIT * bounds.target_s:
                return sight.slots, f"{why}; but {sight.unclaimed} jobs wait"
        if not sight.idle:
            return sight.slots, f"{why}; none is idle at this moment"
        return sight.slots - 1, why

    def _is_silent(self, sight: Sight) -> bool:
        return self.pace.is_silent(sight.at_s - cooldown_s(sight))


def cooldown_s(sight: Sight) -> float:
    """For how long a slot is kept that may not be needed: some times what it took to load it."""
    return max(LEAST_COOLDOWN_S, COOLDOWN_LOADS * _load_s(sight))


def _whole(slots: float) -> int:
    return ceil(min(slots, MOST_TOLD))


def _load_s(sight: Sight) -> float:
    return sight.load_s if sight.load_s is not None else UNKNOWN_LOAD_S
