"""How operators reach the pool's Redis: one Link, or one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from broker import look
from broker.acl import Role
from broker.address import is_sentinel, read_sentinel_url
from broker.connection import LOST, SILENT, Link, ResponseError, safe_url
from broker.errors import RedisUnavailable, SupervisorError, WrongUrl
from broker.settings import Settings
from operators.supervisor import Supervisor

HANGS = "runs and does not answer"


def reach(settings: Settings, *, within_s: float = 2.0, is_reading: bool = False) -> Link:
    """A connected Link. Raises RedisUnavailable with the command that mends it.

    `is_reading` connects to the embedded server as the monitor, who may change nothing and run no script.
    """
    role: Role = "monitor" if is_reading else "operator"
    try:
        link = Link(settings.redis_url_as(role), has_scripts=not is_reading)
    except WrongUrl as error:
        raise WrongUrl(str(error).replace("; write ", "; correct redis.url: write ")) from None
    try:
        if settings.is_embedded:
            link.connect()  # there is no network to wait for
        else:
            link.connect_within(within_s)
    except LOST as error:
        raise RedisUnavailable(_embedded_away(settings, error)) from None
    return link


@contextmanager
def reached(settings: Settings, *, is_reading: bool = False) -> Iterator[Link]:
    """A connected Link, closed behind the block. Raises as `reach`."""
    link = reach(settings, is_reading=is_reading)
    try:
        yield link
    finally:
        link.close()


def _embedded_away(settings: Settings, error: Exception) -> str:
    pid = _embedded_pid(settings)
    if pid and isinstance(error, SILENT):
        return f"the embedded Redis (pid {pid}) {HANGS} ({error}); kill -9 {pid}, supervisord starts it again"
    mend = "start the pool with `penstock up`"
    if "LOADING" in str(error):
        mend = "wait until it has read its append-only file"
    elif pid:
        mend = f"it may be starting: try again, or see {settings.var / 'log' / 'redis.log'}"
    return f"the embedded Redis does not answer on {safe_url(settings.redis_url)} ({error}); {mend}"


def _embedded_pid(settings: Settings) -> int:
    """The embedded server's process, 0 when supervisord runs none."""
    try:
        return Supervisor(settings, timeout_s=2.0).redis().pid
    except SupervisorError:
        return 0


def client_command(settings: Settings) -> str:
    """How to open this pool's Redis with redis-cli, for texts that say the mend."""
    url = settings.redis_url
    if settings.is_embedded:  # its other users may not change the server
        return f"redis-cli -s {url.removeprefix('unix://')} --user admin --pass admin --no-auth-warning"
    if is_sentinel(url):
        guarded = read_sentinel_url(url)
        host, port = guarded.sentinels[0]
        ask = f"redis-cli -h {host} -p {port} SENTINEL GET-MASTER-ADDR-BY-NAME {guarded.service}"
        return f"redis-cli -u redis://$({ask} | paste -sd:)"
    if url.startswith("unix:///") and "?" not in url:
        return f"redis-cli -s {url.removeprefix('unix://')}"
    return f"redis-cli -u {safe_url(url)}"


def read_info(link: Link) -> dict[str, str]:
    """INFO as a flat dict of strings."""
    return look.read_info(link.call("INFO"))


def read_append(link: Link) -> dict[str, str]:
    """How the server keeps its append-only file; empty where this user may not ask."""
    try:
        flat = link.call("CONFIG", "GET", "*append*")
    except ResponseError:
        return {}
    return {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
