"""Who decides how many slots there are: our decide.py, queue-length scaling, and a pool of a fixed size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec

from benchmarks.autoscale.traffic import ONE_SLOT
from operators.autoscale.decide import Scaler
from operators.autoscale.words import Bounds, Sight

TARGET_S, LEAST, MOST = 2.0, 1, 8
LOOK_S = 2.0
T_IS_FAST = 1.2  # T knows forwards only: it takes a slot for faster than it is
HELD_S = 0.05  # of work a slot claims ahead


class View(msgspec.Struct, frozen=True):
    """The simulated pool at a look."""

    at_s: float
    jobs: int
    oldest_s: float
    ended: int
    ready: int
    loading: int
    idle: int
    load_s: float


class Policy(Protocol):
    """Asked every LOOK_S how many slots there shall be."""

    name: str
    first: int  # slots to begin with

    def slots(self, view: View) -> int: ...


class Ours:
    """operators/autoscale/decide.py."""

    name, first = "Penstock autoscale", LEAST

    def __init__(self) -> None:
        self._scaler = Scaler()

    def slots(self, view: View) -> int:
        sight = Sight(
            at_s=view.at_s, jobs=view.jobs, unclaimed=max(0, view.jobs - round(view.ready * ONE_SLOT * HELD_S)),
            oldest_s=view.oldest_s, ended=view.ended, slots=view.ready + view.loading, ready=view.ready, loading=view.loading,
            idle=tuple(range(view.idle)), table_per_s=T_IS_FAST * ONE_SLOT, load_s=view.load_s, places=MOST,
        )  # fmt: skip
        return self._scaler.look(sight, Bounds(LEAST, MOST, TARGET_S)).wanted


class QueueLength:
    """As KEDA's scaler of Redis lists and streams with the horizontal pod autoscaler: jobs over a number per slot, rounded up; up at
    once, down to the highest wish of the last `stable_s`. The number has to be found by hand: here it is what one slot does
    within the target. It asks nobody what a slot is doing, so one that loads or works may be the one to go."""

    def __init__(self, per_slot: float, *, every_s: float = 15.0, stable_s: float = 300.0, name: str = "") -> None:
        self.name, self.first = name, LEAST
        self._per_slot, self._every_s, self._stable_s = int(per_slot), every_s, stable_s
        self._next_s, self._wanted = 0.0, LEAST
        self._wishes: deque[tuple[float, int]] = deque()

    def slots(self, view: View) -> int:
        if view.at_s < self._next_s:
            return self._wanted
        self._next_s = view.at_s + self._every_s
        self._wishes.append((view.at_s, min(MOST, max(LEAST, -(-view.jobs // self._per_slot)))))
        while self._wishes[0][0] < view.at_s - self._stable_s:
            self._wishes.popleft()
        self._wanted = max(count for _, count in self._wishes)
        return self._wanted


class Fixed:
    """So many slots, always."""

    def __init__(self, count: int) -> None:
        self.name, self.first = f"fixed pool of {count}", count

    def slots(self, view: View) -> int:
        return self.first


QUEUE_LENGTH = partial(QueueLength, TARGET_S * ONE_SLOT, name="queue length, as KEDA: 15 s, 300 s")
BESIDE: tuple[Callable[[], Policy], ...] = (
    QUEUE_LENGTH,
    partial(QueueLength, TARGET_S * ONE_SLOT / 4, name="the same, a quarter of the length"),
    partial(QueueLength, TARGET_S * ONE_SLOT, every_s=LOOK_S, stable_s=120.0, name="the same, every 2 s, 120 s"),
    *(partial(Fixed, count) for count in range(1, 7)),
)
