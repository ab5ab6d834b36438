"""How operators reach the pool's Redis: one Link, or one line that says what to do."""

from __future__ import annotations

from broker.connection import LOST, Link, safe_url
from broker.errors import RedisUnavailable
from broker.settings import Settings


def reach(settings: Settings, *, within_s: float = 2.0) -> Link:
    """A connected Link. Raises RedisUnavailable with the command that mends it."""
    link = Link(settings.redis_url)
    try:
        if settings.is_embedded:
            link.connect()  # there is no network to wait for
        else:
            link.connect_within(within_s)
    except LOST as error:
        raise RedisUnavailable(
            f"the embedded Redis does not answer on {safe_url(settings.redis_url)} ({error}); start the pool with `penstock up`"
        ) from None
    return link


def client_command(settings: Settings) -> str:
    """How to open this pool's Redis with redis-cli, for texts that say the mend."""
    url = settings.redis_url
    return (
        f"redis-cli -s {url.removeprefix('unix://')}" if url.startswith("unix://") else f"redis-cli -u {safe_url(url)}"
    )


def read_info(link: Link) -> dict[str, str]:
    """INFO as a flat dict of strings."""
    lines = link.call("INFO").decode(errors="replace").splitlines()
    return {name: value for name, mark, value in (line.partition(":") for line in lines) if mark}
