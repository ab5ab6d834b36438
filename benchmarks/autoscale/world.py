"""The simulated pool: slots that load and have a speed, one FIFO, and a policy that says how many there shall be.

What is real is who decides. Figures: seconds in which the oldest job was older than the target, against slot-hours (slots that
load included).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec
import numpy as np

from benchmarks.autoscale.policies import LOOK_S, TARGET_S, Policy, View
from benchmarks.autoscale.traffic import ONE_SLOT, STEP_S, Scenario

LOAD_S = 20.0


class Course(msgspec.Struct):
    """What one policy made of one scenario; the lists hold one value a look."""

    policy: str
    over_s: float = 0.0
    slot_s: float = 0.0
    worst_s: float = 0.0
    changes: int = 0
    jobs: int = 0
    slots: list[int] = []
    waits_s: list[float] = []

    @property
    def slot_hours(self) -> float:
        return self.slot_s / 3600


def simulate(
    scenario: Scenario, policy: Policy, *, load_s: float = LOAD_S, came: Iterable[int] | None = None
) -> Course:  # fmt: skip
    """One run through the scenario, with a clock of its own. `came` saves drawing the same arrivals again."""
    course = Course(policy.name, slots=[], waits_s=[])
    random = np.random.default_rng(scenario.seed + 1000)
    queue = _Fifo()
    coming: list[float] = []  # when the loading ones will be ready
    ready, credit, at_s, look_s = policy.first, 0.0, 0.0, 0.0
    for count in scenario.arrivals() if came is None else came:
        ready += sum(one <= at_s for one in coming)
        coming = [one for one in coming if one > at_s]
        queue.add(at_s, int(count))
        could = ready * ONE_SLOT * STEP_S + credit
        done = queue.take(int(could))
        credit = min(1.0, could - done) if queue.jobs else 0.0  # parts of jobs, never saved up idleness
        at_s += STEP_S
        oldest_s = queue.oldest_s(at_s)
        course.over_s += STEP_S * (oldest_s > TARGET_S)
        course.worst_s = max(course.worst_s, oldest_s)
        course.slot_s += STEP_S * (ready + len(coming))
        if at_s < look_s:
            continue
        look_s += LOOK_S
        share = min(1.0, done / (ready * ONE_SLOT * STEP_S)) if ready else 1.0
        idle = 0 if queue.jobs else int(random.binomial(ready, 1 - share))
        have = ready + len(coming)
        wanted = policy.slots(View(at_s, queue.jobs, oldest_s, queue.ended, ready, len(coming), idle, load_s))
        course.changes += wanted != have
        coming += [at_s + load_s] * (wanted - have)
        for _ in range(have - wanted):  # one that loads goes first: the cheaper way for those that ask nobody
            if coming:
                coming.pop()
            else:
                ready -= 1
        course.slots.append(wanted)
        course.waits_s.append(oldest_s)
    course.jobs = queue.ended + queue.jobs
    return course


class _Fifo:
    """Jobs in the order they came, by the moment."""

    def __init__(self) -> None:
        self.jobs = self.ended = 0
        self._waiting: deque[list[float]] = deque()  # when, how many are left

    def add(self, at_s: float, count: int) -> None:
        if count:
            self._waiting.append([at_s, count])
            self.jobs += count

    def take(self, most: int) -> int:
        """How many were there, of so many at most."""
        done = left = min(self.jobs, most)
        while left:
            head = self._waiting[0]
            taken = min(left, int(head[1]))
            head[1] -= taken
            left -= taken
            if not head[1]:
                self._waiting.popleft()
        self.jobs -= done
        self.ended += done
        return done

    def oldest_s(self, at_s: float) -> float:
        return at_s - self._waiting[0][0] if self._waiting else 0.0
