"""What an error reply of Redis means to us: a server to come back to, a right we lack, a script or a group it forgot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, NoScriptError, RedisError, ResponseError

# A server that starts, follows or was demoted: as good as away, and worth coming back to.
# Searched for anywhere, because 6.2 wraps what a command inside a script answered.
_NOT_NOW = re.compile(
    r"\b(LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|MISCONF|NOREPLICAS|BUSY Redis|UNBLOCKED force"
    r"|max number of clients reached)\b"
)

# What a user without the right gets; inside a script 6.2 and 7.0 each have words of their own for it.
_DENIED = re.compile(r"NOPERM|ACL failure in script|user executing the script can't")


def read_error(text: str) -> RedisError:
    """hiredis gives the error's text; redis-py's classes name the ones that matter to us."""
    if text.startswith("NOSCRIPT"):
        return NoScriptError(text)
    if _NOT_NOW.search(text):
        return RedisConnectionError(text)
    if _DENIED.search(text):
        return NoPermissionError(text)
    return ResponseError(text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Redis refused a write because it is at maxmemory."""
    return isinstance(error, ResponseError) and ("OOM" in str(error) or "maxmemory" in str(error))


def is_missing_group(error: BaseException) -> bool:
    """Whether streams or their group are gone (FLUSHALL, a new server)."""
    return isinstance(error, ResponseError) and ("NOGROUP" in str(error) or "UNBLOCKED the stream key" in str(error))


def has_forgotten(replies: Sequence[Any]) -> bool:
    """Whether Redis lost its scripts (SCRIPT FLUSH, failover) and ran nothing of these commands' scripts."""
    return NoScriptError in map(type, replies)
