"""When a slot must retire. Pure: takes numbers and a clock, gives a reason or None. Knows nothing of Redis or processes.

Growth is the current value against the baseline after warm-up, over several samples at idle points; a value that is
unknown is never a reason. Soft limits wait for the minimum life, hard limits do not.
"""

from __future__ import annotations

import random
from collections import deque

import msgspec

from broker.settings_tables import RetireSettings
from workers.exchange import Measured
from workers.exits import Exit

MB = 1 << 20


class Verdict(msgspec.Struct, frozen=True):
    """Why a slot must go; `is_hard` goes without asking for a place."""

    exit: Exit
    detail: str
    is_hard: bool = False


class Retirement:
    """The limits of one incarnation. Times are monotonic seconds."""

    def __init__(
        self,
        limits: RetireSettings,
        *,
        baseline: Measured,
        ready_at: float,
        load_s: float,
        draw: random.Random | None = None,
    ) -> None:
        draw = draw or random.Random()
        self.limits = limits
        self.baseline = baseline
        self.ready_at = ready_at
        self.min_life_s = max(limits.min_life_s, limits.min_life_loads * load_s)
        spread = 1 + limits.jitter * draw.uniform(-1, 1)
        self.max_jobs = round(limits.max_jobs * spread) if limits.max_jobs else 0
        self.max_age_s = limits.max_age_s * spread
        self.is_too_fast = False  # a soft limit was reached before the minimum life: shown as `retiring too fast`
        self._host: deque[float] = deque(maxlen=max(1, limits.samples))
        self._device: deque[float] = deque(maxlen=max(1, limits.samples))

    def sample(self, usage: Measured) -> None:
        """Takes one measurement, made at an idle point."""
        self._host.append((usage.host_bytes - self.baseline.host_bytes) / MB)
        if usage.device_bytes is not None and self.baseline.device_bytes is not None:
            self._device.append((usage.device_bytes - self.baseline.device_bytes) / MB)

    def due(self, jobs: int, now: float) -> Verdict | None:
        """The reason to retire now, or None."""
        limits = self.limits
        for name, grown, limit, exit_code in (
            ("host", self._host, limits.host_hard_growth_mb, Exit.HOST_GROWTH),
            ("device", self._device, limits.device_hard_growth_mb, Exit.DEVICE_GROWTH),
        ):
            if limit and grown and grown[-1] > limit:
                detail = f"{name} memory grew {grown[-1]:.0f} MB, hard limit {limit:.0f} MB"
                return Verdict(exit_code, detail, is_hard=True)
        soft = self._soft(jobs, now)
        if soft is None:
            return None
        self.is_too_fast = now - self.ready_at < self.min_life_s
        return None if self.is_too_fast else soft

    def _soft(self, jobs: int, now: float) -> Verdict | None:
        limits = self.limits
        if self.max_jobs and jobs >= self.max_jobs:
            return Verdict(Exit.MAX_JOBS, f"{jobs} jobs, limit {self.max_jobs}")
        age_s = now - self.ready_at
        if self.max_age_s and age_s >= self.max_age_s:
            return Verdict(Exit.MAX_AGE, f"{age_s:.0f} s old, limit {self.max_age_s:.0f} s")
        for name, grown, limit, exit_code in (
            ("host", self._host, limits.host_growth_mb, Exit.HOST_GROWTH),
            ("device", self._device, limits.device_growth_mb, Exit.DEVICE_GROWTH),
        ):
            if limit and len(grown) == grown.maxlen and min(grown) > limit:
                detail = f"{name} memory grew {min(grown):.0f} MB over {len(grown)} samples, limit {limit:.0f} MB"
                return Verdict(exit_code, detail)
        return None
