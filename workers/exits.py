"""How a slot ends: exit codes and their names, once. supervisord.conf repeats them as a comment; status shows the names.

supervisord restarts all of them; the code only tells operators and metrics why.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `python -m workers`."""

    DRAINED = 0
    MAX_JOBS = 64
    MAX_AGE = 65
    HOST_GROWTH = 66
    DEVICE_GROWTH = 67
    ENGINE_DIED = 68
    REDIS_LOST = 69
    LOAD_FAILED = 70
    HANG = 71
    CRASHED = 72
    DEVICE_FAULT = 73
    MISCONFIGURED = 78

    @property
    def reason(self) -> str:
        """The name as it stands in Redis, logs and status."""
        return self.name.lower()


KILLED = "killed"  # what the next incarnation writes for a predecessor that could not say anything
BLAMING = (Exit.ENGINE_DIED, Exit.HANG, Exit.DEVICE_FAULT)  # the batch in the engine is marked
RETIREMENTS = (Exit.MAX_JOBS, Exit.MAX_AGE, Exit.HOST_GROWTH, Exit.DEVICE_GROWTH)
