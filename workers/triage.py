"""What becomes of a batch that failed as a whole, by the table of failures: smaller parts, or the end of the job at fault.

Knows no engine: whether that one goes on at all decides the runner.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from broker.ends import Fault
from workers import halves
from workers.batch import Batch
from workers.caps import Caps
from workers.exchange import Ran
from workers.failures import Action
from workers.faults import fault_by
from workers.outcomes import Outcomes

log = structlog.get_logger()


class Triage:
    """Keeps the parts that are still to run, the next one last. `drop` takes jobs out of what waits to be packed."""

    def __init__(
        self,
        *,
        outcomes: Outcomes,
        caps: Caps,
        bucket: Callable[[int], int],
        drop: Callable[[set[bytes]], None],
        redis_ms: Callable[[], float],
    ) -> None:
        self.parts: list[Batch] = []  # the same list always
        self._outcomes = outcomes
        self._caps = caps
        self._bucket = bucket
        self._drop = drop
        self._redis_ms = redis_ms

    def split(self, batch: Batch, ran: Ran, action: Action) -> list[Fault]:
        """Adds to the parts; the fault of a job that fails by itself."""
        if batch.forwards > 1:  # which of them failed is not known
            self.parts += reversed(halves.by_rows(batch, batch.forward_rows, self._bucket))
            return []
        if action is Action.HALVE:
            return self._halve(batch, ran)
        if len(batch.pieces) > 1:  # until the jobs at fault stand alone, so that only they fail
            self.parts += reversed(halves.by_jobs(batch, self._bucket))
            return []
        return [self._fail(batch, ran)]

    def _halve(self, batch: Batch, ran: Ran) -> list[Fault]:
        """Out of memory: goes on with fewer rows and remembers how many fit; a row that does not fit alone ends its job."""
        most = self._caps.lower(batch.dims, batch.bucket, self._redis_ms())
        if batch.rows > 1:
            parts = halves.by_rows(batch, most or batch.rows, self._bucket)
            log.warning("out of memory", error=ran.error, rows=batch.rows, bucket=batch.bucket, next_rows=parts[0].rows)
            self.parts += reversed(parts)
            return []
        self._caps.pardon(batch.dims)
        return [self._fail(batch, ran)]

    def _fail(self, batch: Batch, ran: Ran) -> Fault:
        """One job at fault: all its rows go, those that wait too. Others that share a part with it stay."""
        job = batch.pieces[0].job
        self._outcomes.forget({job.lease})
        self._drop({job.lease})
        kept = (halves.without(part, job.lease, self._bucket) for part in self.parts)
        self.parts[:] = [part for part in kept if part is not None]
        return fault_by(job, ran.reason, ran.error, now_ms=self._redis_ms())
