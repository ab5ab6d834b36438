"""Redis URLs: what they may be, how to show one, and the redis-py connection made of it.

redis-py finds the server (address, TLS, AUTH, SELECT); behind Sentinel its own managed connection asks for the master at
each connect. Here is only the reading of URLs: no connecting, no retrying.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

import redis
import redis.asyncio.connection
import redis.asyncio.sentinel
import redis.connection
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker.errors import WrongUrl

CONNECT_TIMEOUT_S = 3.0
SENTINEL_TIMEOUT_S = 1.0  # each is asked in turn until one answers
SENTINEL_PORT = 26379
_SECRET = re.compile(r"(?<=[?&])((?:sentinel_|ssl_)?password)=[^&]*")


class Guarded(NamedTuple):
    """What a redis+sentinel:// URL says: whom to ask for which service, and how to speak to the server found."""

    sentinels: list[tuple[str, int]]
    service: str
    sentinel_options: dict[str, Any]
    options: dict[str, Any]


def safe_url(url: str) -> str:
    """`url` without its passwords, for messages."""
    url = _SECRET.sub(r"\1=***", url)
    head, at, tail = url.rpartition("@")
    return f"{head.partition('//')[0]}//***@{tail}" if at else url


def is_sentinel(url: str) -> bool:
    """Whether the server is found by asking Sentinel."""
    return url.startswith(("redis+sentinel://", "rediss+sentinel://"))


def make_pool(url: str, *, read_timeout_s: float) -> Any:
    """A redis-py pool that makes connections to the server of `url`. Raises WrongUrl when it is no Redis URL."""
    options: dict[str, Any] = {
        "protocol": 2, "socket_timeout": read_timeout_s, "socket_connect_timeout": CONNECT_TIMEOUT_S, "retry": None,
        "retry_on_error": [], "health_check_interval": 0,
    }  # fmt: skip
    try:
        if not is_sentinel(url):
            return _tried(redis.ConnectionPool(**_checked(redis.connection.parse_url, url) | options))
        guarded = read_sentinel_url(url)
        kind: Any = redis.sentinel
        manager = kind.Sentinel(
            guarded.sentinels, sentinel_kwargs=guarded.sentinel_options | {"retry": Retry(NoBackoff(), 0)}
        )
        return _tried(kind.SentinelConnectionPool(guarded.service, manager, **guarded.options | options))
    except (ValueError, TypeError) as error:
        raise _no_url(url, error) from None


def make_async_pool(url: str) -> Any:
    """As `make_pool`, for asyncio. Who uses its connections keeps it too: redis-py's refer to it weakly."""
    options: dict[str, Any] = {
        "protocol": 2, "socket_connect_timeout": CONNECT_TIMEOUT_S, "retry_on_error": [], "health_check_interval": 0,
    }  # fmt: skip
    try:
        if not is_sentinel(url):
            return _tried(redis.asyncio.ConnectionPool(**_checked(redis.asyncio.connection.parse_url, url) | options))
        guarded = read_sentinel_url(url)
        kind: Any = redis.asyncio.sentinel
        manager = kind.Sentinel(
            guarded.sentinels, sentinel_kwargs=guarded.sentinel_options | {"retry": AsyncRetry(NoBackoff(), 0)}
        )
        return _tried(kind.SentinelConnectionPool(guarded.service, manager, **guarded.options | options))
    except (ValueError, TypeError) as error:
        raise _no_url(url, error) from None


def sentinels_of(pool: Any) -> list[Any]:
    """The clients through which a pool asks Sentinel; none of a plain one. They keep their sockets until closed."""
    return list(pool.sentinel_manager.sentinels) if hasattr(pool, "sentinel_manager") else []


def read_sentinel_url(url: str) -> Guarded:
    """redis+sentinel://[user:password@]host:26379,host:26379/SERVICE[/DB][?sentinel_password=..&ssl=true]. User and password
    are the server's; rediss+sentinel or ssl=true encrypts both ways. Raises ValueError for what is not of that form."""
    parts = _split(url)
    user, at, hosts = parts.netloc.rpartition("@")
    service, _, db = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("the service's name is missing behind the hosts")
    query = dict(parse_qsl(parts.query))
    is_tls = query.pop("ssl", "").lower() in ("true", "yes", "1") or parts.scheme == "rediss+sentinel"
    about = {name: query.pop(name) for name in ("sentinel_username", "sentinel_password") if name in query}
    # All else is as in any other URL, so redis-py reads it.
    plain = f"redis://{user}{at}server{'/' + db if db else ''}?{urlencode(query)}"
    options = _checked(redis.connection.parse_url, plain)
    del options["host"]
    sentinel_options: dict[str, Any] = {
        "socket_timeout": SENTINEL_TIMEOUT_S, "socket_connect_timeout": SENTINEL_TIMEOUT_S, "ssl": is_tls,
        **{name: value for name, value in options.items() if name.startswith("ssl_")},
        **{name.removeprefix("sentinel_"): value for name, value in about.items()},
    }  # fmt: skip
    return Guarded(
        [_host(one) for one in hosts.split(",")], unquote(service), sentinel_options, options | {"ssl": is_tls}
    )


def lost(url: str, error: Exception) -> Exception:
    """A lost connection's error; what redis-py says of Sentinel, its objects among the words, becomes ours."""
    if not isinstance(error, redis.sentinel.MasterNotFoundError | redis.asyncio.sentinel.MasterNotFoundError):
        return error
    guarded = read_sentinel_url(url)
    if str(error).count(" - ") < len(guarded.sentinels):  # one for each that did not answer
        return redis.ConnectionError(f"no Sentinel there knows a master named {guarded.service!r} that is up")
    asked = ", ".join(f"{host}:{port}" for host, port in guarded.sentinels)
    return redis.ConnectionError(f"no Sentinel answers at {asked}")


def not_redis(url: str) -> WrongUrl:
    """The error of a server that speaks something else."""
    return WrongUrl(f"what answers at {safe_url(url)} is no Redis; correct redis.url, its port above all")


def _host(text: str) -> tuple[str, int]:
    one = _split(f"//{text}")
    if not one.hostname:
        raise ValueError("write the sentinels as host:26379,host:26379")
    return one.hostname, one.port or SENTINEL_PORT


def _split(url: str) -> SplitResult:
    """The URL's parts. Raises ValueError, whose text repeats nothing of the URL: a mangled one may show a password there."""
    parts = urlsplit(url)
    if "@" in parts.path + parts.fragment or ("@" in parts.query and "@" not in parts.netloc):
        raise ValueError("in a password / ? # and @ are written %2F %3F %23 and %40")
    if "," not in parts.netloc:
        try:
            _ = parts.port
        except ValueError:
            raise ValueError("its port is no number") from None
    return parts


def _checked(parse: Callable[[str], Any], url: str) -> dict[str, Any]:
    """What redis-py reads in a URL. It takes a database that is no number for 0; we do not."""
    if not url.startswith("unix://"):
        parts = _split(url)
        database = parts.path.strip("/")
        if parts.scheme in ("redis", "rediss") and database and not database.isdigit():
            raise ValueError("its database is no number")
    parsed: dict[str, Any] = parse(url)
    return parsed


def _tried(pool: Any) -> Any:
    """The pool, after it has made one connection object: only that looks at the options it was given."""
    pool.make_connection()
    return pool


def _no_url(url: str, error: Exception) -> WrongUrl:
    why = str(error).replace("Redis URL must specify one of the following schemes", "it begins with none of")
    if isinstance(error, TypeError):
        why = f"nobody knows its option {why.rpartition(' ')[2]}"
    return WrongUrl(
        f"{safe_url(url)!r} is not a Redis URL ({why}); write redis://host:6379, unix:///path/redis.sock or "
        "redis+sentinel://host1:26379,host2:26379/SERVICE"
    )
