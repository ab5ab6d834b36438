"""A submitted job in the caller's hand: wait for it, ask where it is, cancel it. All work is the Producer's."""

from __future__ import annotations

from producer.options import seconds
from producer.results import Result
from producer.tickets import Ticket


class Handle(Ticket, eq=False, gc=False):
    """One submitted job. Light; throwing it away does not stop the job. `id` is good in any process, `warning` says what
    the caller should know though the job was taken (no slot ready, an input that broke a bound which only flags), else None.
    """

    def result(self, timeout: float | None = None) -> Result:
        """Waits for the job's end, at most `timeout` seconds (None: until its end; 0 or less: only looks).

        Raises ResultTimeout (the job goes on; wait again), JobFailed, JobDead, JobExpired, JobCancelled, ResultExpired
        when the result is past its TTL, RedisUnavailable, InvalidInput for a timeout that is no number.
        """
        timeout = seconds(timeout)
        producer = self._producer
        if self._blob is None:
            producer._await(self, timeout)
        result: Result = producer._read(self)
        return result

    def status(self) -> str:
        """waiting, delayed, claimed, done, failed, dead, expired, cancelled, or unknown: gone, past its TTL, or not found in 3 s
        among very many that wait (asked again, the search goes on where it stopped)."""
        status: str = self._producer._status(self)
        return status

    def cancel(self) -> bool:
        """Ends the job as cancelled wherever it is; False when it has ended or is unknown.

        Raises ResultTimeout when another process submitted it and it was not found in 3 s among very many that wait.
        """
        return bool(self._producer._cancel(self))
