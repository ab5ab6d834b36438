"""The doctor's look for large bodies in a store that queue.bodies named before: its slots look there no more, and nobody removes them."""

from __future__ import annotations

from collections.abc import Iterator

from broker import bodies_sweep, keys
from broker.settings import Settings
from operators.finding import Finding
from operators.reach import reached
from operators.supervisor import Supervisor


def left_bodies(settings: Settings) -> Iterator[Finding]:
    """Notes of bodies in other stores than the one that is configured; nothing where there are none."""
    if settings.is_embedded and not Supervisor(settings).is_running():
        return  # the check of Redis says it
    with reached(settings, is_reading=True) as link:
        for name in settings.models:
            for token, location in bodies_sweep.read_stores(link.call("HGETALL", keys.spec(name))):
                count = int(link.call("ZCARD", keys.bodies(name, token))) if location != settings.queue.bodies else 0
                if count:
                    what = "1 body" if count == 1 else f"{count} bodies"
                    yield Finding(
                        "warn",
                        f"{name}: {what} of large jobs at {location}, which queue.bodies named before: jobs that need one are "
                        "retried and then dead, and nobody removes them",
                        f'set queue.bodies = "{location}" again until the queue and its dead letters are empty',
                    )
