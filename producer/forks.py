"""The Producers of this process: after a fork each goes on with a client id and connections of its own. Nothing else."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Renewable(Protocol):
    """What a forked child must renew."""

    def _renew(self) -> None: ...


_alive: WeakSet[Renewable] = WeakSet()


def remember(producer: Renewable) -> None:
    """From now on, as long as somebody holds it."""
    _alive.add(producer)


def _renew_all() -> None:
    for producer in list(_alive):
        producer._renew()


os.register_at_fork(after_in_child=_renew_all)
