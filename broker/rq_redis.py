"""A redis-py client for RQ, which can use nothing else. Only the programs of runs have one; everything of ours speaks over a Link."""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from broker.address import make_pool

TRIES, PAUSE_S = 6, 0.5  # a Redis that starts again is back within these


def rq_client(url: str, *, read_timeout_s: float = 15.0) -> Any:
    """Connects at its first command. Repeats one when the connection was lost: what RQ then does twice, `enqueue` makes good."""
    pool = make_pool(url, read_timeout_s=read_timeout_s)
    pool.connection_kwargs.update(
        retry=Retry(ConstantBackoff(PAUSE_S), TRIES, supported_errors=(redis.ConnectionError,)),
        retry_on_error=[redis.ConnectionError],
    )
    return redis.Redis(connection_pool=pool)
