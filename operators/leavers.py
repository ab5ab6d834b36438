"""Slots that leave the pool: drained, then assigned to nothing and forgotten. How many are wanted is the caller's to say, before."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from broker import roster
from broker.connection import Link
from broker.errors import SupervisorError
from broker.settings import Settings
from operators.supervisor import Supervisor


def take_out(settings: Settings, link: Link, supervisor: Supervisor, leaving: Mapping[int, str]) -> None:
    """Drains these slots (number -> model) together and returns when they have ended. To be called under the pool's lock.

    Interrupted, they still leave: what has heard TERM cannot be called back, and what stays assigned is started again.
    """
    host = settings.host
    try:
        supervisor.stop_slots(leaving)
    except BaseException:
        with contextlib.suppress(SupervisorError):
            for number in leaving:
                supervisor.stop_soon(number)
        raise
    finally:  # after its end: a slot that restarts in between must still know what it serves
        for number in leaving:
            roster.assign(link, host, number, None)
    for number, model in leaving.items():
        roster.forget_slot(link, roster.slot_name(host, number), model)
