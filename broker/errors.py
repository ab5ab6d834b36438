"""Every error Penstock raises, in one tree. The text always says what to do next.

Policy stands on the class: `retryable` says whether the same call may succeed later unchanged.
"""

from __future__ import annotations

from typing import Any


class PenstockError(Exception):
    """Root of the tree; catch it to catch all of ours.

    `accepted` holds the handles of what a `submit_many` had queued before it was refused; `index` the place of the input
    that failed in what `map` was given, -1 where there is none.
    """

    retryable = False

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.accepted: list[Any] = []
        self.index = -1


# --- refused at submit: nothing was queued --------------------------------------------------


class Refused(PenstockError):
    """Raised when a submit is refused; nothing of the refused part was queued."""


class UnknownModel(Refused):
    """Raised when no slot and no operator has published the model."""


class InvalidInput(Refused):
    """Raised when inputs do not fit the model's manifest: name, dtype, shape, rank, range or finiteness."""


class PayloadTooLarge(Refused):
    """Raised when one job's payload exceeds the pool's `payload_limit_bytes`."""


class QueueFull(Refused):
    """Raised when the queue's job or byte limit is reached; `retry_after_s` says when to try again."""

    retryable = True

    def __init__(self, text: str, *, retry_after_s: float) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class KeyConflict(Refused):
    """Raised when an idempotency key was used before with other content."""


class StaleRequest(Refused):
    """Raised when a request number is older than the newest the server remembers; it was not applied now."""


class SubmitUnknown(PenstockError):
    """Raised when Redis did not answer within the retries: the job may or may not be queued; `job_id` tells."""

    retryable = True

    def __init__(self, text: str, *, job_id: str) -> None:
        super().__init__(text)
        self.job_id = job_id


class SubmitNotDurable(SubmitUnknown):
    """Raised with durability="fsync" when jobs are queued and Redis did not prove in time that they are on its disk.

    They run unless Redis' machine fails now; `accepted` holds their handles. Submitting again would queue them twice.
    """

    retryable = False


# --- waiting for a result -------------------------------------------------------------------


class ResultTimeout(PenstockError, TimeoutError):
    """Raised when a result did not come in time; the job goes on, waiting again is safe."""

    retryable = True


class ResultExpired(PenstockError):
    """Raised when an id is unknown or its result is past its TTL."""


class JobFailed(PenstockError):
    """Raised when the job ran and failed; `reason` is machine-readable, the text is the model's error."""

    def __init__(self, text: str, *, job_id: str = "", reason: str = "", attempt: int = 0) -> None:
        super().__init__(text)
        self.job_id = job_id
        self.reason = reason
        self.attempt = attempt


class JobDead(JobFailed):
    """Raised when the job was given up: retries exhausted, engines died under it, or it does not fit the device."""


class JobExpired(JobFailed):
    """Raised when the job's deadline passed before its forward began."""


class JobCancelled(JobFailed):
    """Raised when the job was cancelled."""


class UnknownLetter(PenstockError):
    """Raised when no dead letter has that id: it was replayed, dropped or pushed out, or the job never died."""


# --- the pool's own --------------------------------------------------------------------------


class RedisUnavailable(PenstockError):
    """Raised when Redis cannot be reached or refuses us; the text names the address and the mend."""

    retryable = True


class RedisRefused(RedisUnavailable):
    """Raised when Redis is there and refuses our user: a wrong password, or a right its ACL does not give."""

    retryable = False


class WrongUrl(RedisRefused):
    """Raised when a Redis URL is none, or leads to something that is no Redis."""


class StoreError(PenstockError):
    """Raised when the store of large bodies cannot be used from here: a folder, a URL, or fsspec that is not installed."""

    retryable = True


class DecodeError(PenstockError):
    """Raised when bytes from the wire are not a message we can read; nothing was allocated for them."""


class RunError(PenstockError):
    """A bulk run cannot begin or go on: its input, its mapping or its output is at fault."""


class LeaseLost(RunError):
    """Raised in the program that works a run when another has taken it over: nothing more may be written for it here."""


class RunFailed(RunError):
    """Raised by those who wait for a bulk run when it failed or was cancelled; `view` is how it ended."""

    def __init__(self, text: str, *, view: Any = None) -> None:
        super().__init__(text)
        self.view = view


class ConfigError(PenstockError):
    """Raised when pool.toml, a flag or an environment variable is wrong."""


class ArtifactError(PenstockError):
    """Raised when a model artifact's manifest or files are wrong, altered or unsafe to load."""


class DeviceError(PenstockError):
    """Raised when the configured device or execution provider is not available."""


class SupervisorError(PenstockError):
    """Raised when supervisord cannot be reached or refuses a command."""
