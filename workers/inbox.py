"""What becomes of claimed jobs until they are in hand: their bodies are fetched, misfits end, the rest goes to the batcher.

Also gives up what is in hand and cannot be ready in time. Not here: claiming (claimer), batches (batcher).
"""

from __future__ import annotations

from collections.abc import Callable

from broker.ends import Fault
from broker.messages import Job
from workers.ahead import Ahead
from workers.batcher import Batcher
from workers.bodies import Bodies
from workers.faults import fault_of
from workers.outcomes import Outcomes
from workers.pacing import Pacing


class Inbox:
    """Of one slot. `redis_ms` gives Redis' time now."""

    def __init__(
        self,
        *,
        batcher: Batcher,
        bodies: Bodies,
        outcomes: Outcomes,
        pacing: Pacing,
        ahead: Ahead,
        redis_ms: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._batcher = batcher
        self._bodies = bodies
        self._outcomes = outcomes
        self._pacing = pacing
        self._ahead = ahead
        self._redis_ms = redis_ms
        self._clock = clock

    def take(self, jobs: list[Job]) -> list[Fault]:
        """Jobs were claimed, some perhaps once more; what must end at once comes back."""
        for job in jobs:
            if job.body is not None:
                jobs = self._bodies.split(jobs)
                break
        return self._add(jobs) if jobs else []

    def gather(self) -> list[Fault]:
        """Takes the jobs whose bodies have come; what must end comes back."""
        bodies = self._bodies
        bodies.advance()
        jobs, bodies.ready = bodies.ready, []
        faults, bodies.faults = bodies.faults, []
        return faults + (self._add(jobs) if jobs else [])

    def expire(self) -> list[Fault]:
        """Gives up what cannot be ready in time."""
        if not self._batcher.has_deadlines:
            return []
        now_ms = self._redis_ms()
        faults = []
        for job in self._batcher.hopeless(now_ms):
            text = f"{max(0, job.deadline_ms - now_ms):.0f} ms were left, too little for a forward with what else waits"
            faults.append(fault_of(job, "expired", reason="deadline", text=text, now_ms=now_ms))
        return faults

    def _add(self, jobs: list[Job]) -> list[Fault]:
        self._outcomes.took(jobs)
        self._pacing.took(jobs)
        self._ahead.note(jobs[0].lane, jobs[-1].lane, self._clock())
        misfits = self._batcher.add(jobs)
        if not misfits:
            return []
        now_ms = self._redis_ms()
        return [fault_of(one.job, "failed", reason="invalid_input", text=one.text, now_ms=now_ms) for one in misfits]
