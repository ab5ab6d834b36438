"""Slots that leave the pool: assigned to nothing, drained and forgotten. What is said of them is one write, and it goes first:
who is killed behind it leaves slots that belong to nothing, and the agent drains those."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from broker import roster
from broker.arrangement import arrange
from broker.connection import Link
from broker.errors import SupervisorError
from broker.settings import Settings
from operators.supervisor import Supervisor


def take_out(
    settings: Settings, link: Link, supervisor: Supervisor, leaving: Mapping[int, str], *, wanted: Mapping[str, int]
) -> None:
    """Drains these slots (number -> model) together and returns when they have ended; `wanted` is what stays, of each of their
    models. To be called under the pool's lock. Interrupted, they still leave: what has heard TERM cannot be called back.

    A slot that dies on the way starts again, waits for an assignment, and is stopped there; what it held is swept.
    """
    host = settings.host
    arrange(link, host, wanted=wanted, assigned=dict.fromkeys(leaving))
    try:
        supervisor.stop_slots(leaving)
    except BaseException:
        with contextlib.suppress(SupervisorError):
            for number in leaving:
                supervisor.stop_soon(number)
        raise
    for number, model in leaving.items():
        roster.forget_slot(link, roster.slot_name(host, number), model)
