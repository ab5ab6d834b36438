"""CPU time of a pool's processes by role, in nanoseconds where the kernel counts them. Reads /proc, changes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks import machine

Roles = Mapping[str, Sequence[int]]  # role -> pids


def cpu_s(pid: int) -> float:
    """Seconds of CPU of all threads that live: schedstat's nanoseconds, or clock ticks where the kernel keeps none.

    Ticks are too coarse for an idle process: a second of 0.5 % of a core is half a tick.
    """
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        found = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    except (FileNotFoundError, ProcessLookupError):
        found = 0
    return found / 1e9 if found else machine.cpu_s(pid)


def busy_s() -> float:
    """Seconds of CPU of the whole machine since it started: whatever is not idle or waiting for a disk."""
    user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8])
    return (user + nice + system + sum(interrupts)) * machine.TICK_S


class Spent(msgspec.Struct, frozen=True):
    """What the roles used in `took_s` of wall clock, and what the machine did besides: work that is not ours spoils a figure."""

    took_s: float
    cpu_s: dict[str, float]
    others_s: float

    def us_per(self, count: float) -> dict[str, float]:
        """role -> microseconds of CPU for each of `count`."""
        return {role: round(spent / count * 1e6, 2) for role, spent in self.cpu_s.items()}

    def others(self) -> float:
        """Cores that went elsewhere: other programs, and the kernel on behalf of none."""
        return round(max(0.0, self.others_s / self.took_s), 3)

    def shares(self) -> dict[str, float]:
        """role -> cores used."""
        return {role: round(spent / self.took_s, 4) for role, spent in self.cpu_s.items()}


class Clock:
    """The wall clock and the roles' CPU since now."""

    def __init__(self, roles: Roles) -> None:
        self._roles = roles
        self._cpu = self._read()
        self._busy = busy_s()
        self._started = time.perf_counter()

    def spent(self) -> Spent:
        """Since the clock was made."""
        took_s = time.perf_counter() - self._started
        now = self._read()
        ours = {role: now[role] - self._cpu[role] for role in self._roles}
        return Spent(took_s, ours, busy_s() - self._busy - sum(ours.values()))

    def _read(self) -> dict[str, float]:
        return {role: sum(map(cpu_s, pids)) for role, pids in self._roles.items()}
