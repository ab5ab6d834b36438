"""Synthetic traffic for the simulation of autoscaling: jobs that arrive in each step, from a seed. No load generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

STEP_S = 0.5
ONE_SLOT = 100.0  # jobs/s; all rates are multiples of what one slot does


class Scenario(msgspec.Struct, frozen=True):
    """`rate` gives the load in slots at a second; `lumps` come at once: (second, jobs)."""

    name: str
    title: str
    lasts_s: float
    rate: Callable[[float], float]
    lumps: tuple[tuple[float, int], ...] = ()
    seed: int = 1

    def arrivals(self) -> Any:
        """Jobs of each step: Poisson around the rate, and the lumps."""
        random = np.random.default_rng(self.seed)
        times = np.arange(0.0, self.lasts_s, STEP_S)
        came = random.poisson([self.rate(at) * ONE_SLOT * STEP_S for at in times])
        for at, jobs in self.lumps:
            came[int(at / STEP_S)] += jobs
        return came


def _step(at_s: float) -> float:
    return 4.2 if 600 <= at_s < 2400 else 0.5


def _bursts(at_s: float) -> float:
    """A base of 0.6; a burst of one to two minutes every six to ten."""
    return next((height for start, end, height in _BURSTS if start <= at_s < end), 0.6)


def _daily(at_s: float) -> float:
    """A day squeezed into six hours: a quiet night, two humps with a dip at noon, a slow swell on top."""
    hour = at_s / 900  # of the day
    work = math.exp(-(((hour - 10.5) / 2.2) ** 2)) + 0.9 * math.exp(-(((hour - 15.5) / 2.6) ** 2))
    return 0.3 + 4.2 * work + 0.25 * math.sin(at_s / 97) * work


def _drawn_bursts(seed: int) -> tuple[tuple[float, float, float], ...]:
    random = np.random.default_rng(seed)
    found, at = [], 300.0
    while at < 7000:
        lasts = float(random.uniform(60, 120))
        found.append((at, at + lasts, float(random.uniform(2.5, 4.5))))
        at += float(random.uniform(360, 600))
    return tuple(found)


_BURSTS = _drawn_bursts(7)

SCENARIOS = (
    Scenario("step", "step: 0.5 to 4.2 slots' worth for half an hour", 3600.0, _step),
    Scenario("bursts", "bursts: one to two minutes, every six to ten", 7200.0, _bursts, seed=2),
    Scenario("daily", "daily curve, squeezed into six hours", 21600.0, _daily, seed=3),
    Scenario("lumps", "lumps: a job list of 3 000 at once every five minutes", 7200.0, lambda at_s: 0.5,
             lumps=tuple((60.0 + 300.0 * n, 3000) for n in range(23)), seed=4),
)  # fmt: skip
