"""The error that a refused submit becomes, its text with the mend: by the queue's own limits and checks, or by Redis itself."""

from __future__ import annotations

from broker.answer import Answer
from broker.connection import NoPermissionError, is_out_of_memory
from broker.errors import (
    InvalidInput,
    KeyConflict,
    PayloadTooLarge,
    PenstockError,
    QueueFull,
    RedisRefused,
    RedisUnavailable,
    StaleRequest,
    UnknownModel,
)
from broker.spec import Limits

OOM_RETRY_AFTER_S = 1.0


def of(answer: Answer, model: str, limits: Limits) -> PenstockError:
    """The error of an answer that is not `ok`; its text says the mend."""
    detail = answer.detail
    match answer.code:
        case "full":
            what, _, paused = detail.partition(" ")
            most = f"{limits.max_jobs} jobs" if what == "jobs" else f"{limits.max_bytes} bytes"
            wait_s = answer.retry_after_ms / 1000
            why = f" and is paused until `penstock resume {model}`" if paused else ""
            return QueueFull(
                f"the queue of model {model!r} is at its limit of {most}{why}; try again in {wait_s:.2f} s, "
                f"pass wait_s to wait for room, or raise queue.max_{what} in pool.toml",
                retry_after_s=wait_s,
            )
        case "conflict":
            return KeyConflict(
                f"idempotency key {detail!r} was used before on model {model!r} with other content; "
                "use a new key for new content"
            )
        case "too_large":
            return PayloadTooLarge(
                f"a job of {detail} bytes is over the limit of {limits.payload_limit_bytes} bytes a job; send fewer "
                "rows, a smaller dtype or a path to the data, or raise queue.payload_limit_bytes in pool.toml"
            )
        case "no_body":
            return QueueFull(
                f"Redis had no room for the body of a large job of model {model!r}, or forgot it; try again in "
                f"{OOM_RETRY_AFTER_S:g} s, shorten result_ttl_s, or raise redis.max_memory_mb",
                retry_after_s=OOM_RETRY_AFTER_S,
            )
        case "garbled":
            return InvalidInput(
                f"job number {detail} of this chunk refers to its body in a form that Redis does not take, or to another store "
                f"than the chunk's; upgrade the producer of model {model!r}, or use large_apart=False"
            )
        case "stale":
            return StaleRequest(
                f"Redis knows request {detail} of this client, newer than this one, which was not applied now; "
                "submit again"
            )
        case "unknown_model":
            return UnknownModel(
                f"no model named {model!r} is published; see `penstock models`, or start the pool that serves it"
            )
        case "new_spec":
            return InvalidInput(
                f"the spec of model {model!r} changes faster than a submit takes; two pools publish different "
                "versions of it: stop one"
            )
    return PenstockError(f"submit answered {answer.code!r}, which this client does not know; upgrade it")


def by_redis(error: Exception, model: str) -> PenstockError:
    """The error of a submit that Redis itself refused: out of memory is a full queue, all else is Redis' trouble."""
    if is_out_of_memory(error):
        return QueueFull(
            f"Redis is at maxmemory and took no job for model {model!r}; try again in {OOM_RETRY_AFTER_S:g} s, "
            "shorten result_ttl_s, or raise redis.max_memory_mb",
            retry_after_s=OOM_RETRY_AFTER_S,
        )
    return denied(error) or RedisUnavailable(f"Redis refused a command: {error}; see `penstock doctor`")


def denied(error: object) -> RedisRefused | None:
    """The error of a user whose ACL lacks a right; None when it is something else."""
    if not isinstance(error, NoPermissionError):
        return None
    return RedisRefused(
        f"Redis refused us: {error}; give the user of redis.url the rights of `producer` (docs/security.md)"
    )
