"""All cases, in the order they are played."""

from __future__ import annotations

from tests.chaos.case import Case
from tests.chaos.cases import hosts, jobs, network, processes, races, redis_faults, versions

CASES: tuple[Case, ...] = (
    *processes.CASES, *hosts.CASES, *redis_faults.CASES, *jobs.CASES, *races.CASES, *versions.CASES, *network.CASES,
)  # fmt: skip
