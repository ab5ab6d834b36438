"""The engine's loop on a device that works beside the host: while one forward computes, the next one's inputs are copied.

At most one forward computes at a time, so that an error of the device is that batch's and nobody else's; the next one is
launched as soon as it landed, and only then is the finished one answered. Answers leave in the order of the Runs.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

from workers import exchange
from workers.device_batch import DeviceBatch
from workers.exchange import Measure, Ran, Run
from workers.progress import Progress

LOOK_S = 100e-6  # between two looks at the device while it computes and the slot is silent


def serve(
    end: socket.socket,
    *,
    board: Callable[[Run], DeviceBatch],
    answer: Callable[[Ran | Measure], None],
    progress: Progress,
) -> None:
    """Answers until the slot closes its end. `answer` takes a Measure when nothing is under way.

    `progress` is told which batch this process works on, so that the right one is blamed when it dies of it.
    """
    flying: DeviceBatch | None = None
    while True:
        if flying is None:
            message = exchange.read_for_engine(end)
            if message is None:
                return
            if isinstance(message, Measure):
                progress.stamp()
                answer(message)
                continue
            progress.turn_to(message.seq)
            flying = board(message)
            flying.prepare()
            flying.launch()
        following: DeviceBatch | Measure | None = None
        if _has_word(end, flying):
            message = exchange.read_for_engine(end)
            if message is None:
                return
            if isinstance(message, Measure):
                following = message
            else:
                progress.turn_to(message.seq)
                following = board(message)
                following.prepare()
                following.stage()
        progress.turn_to(flying.number)
        flying.land()
        landed, flying = flying, None
        if isinstance(following, DeviceBatch) and not landed.has_failed:  # else the device has to be asked first, alone
            flying = following
            progress.turn_to(flying.number)
            flying.launch()
        elif isinstance(following, DeviceBatch):
            following.unstage()
        answer(landed.ran(is_alone=flying is None))
        if isinstance(following, Measure):
            answer(following)
        elif following is not None and flying is None:
            flying = following
            progress.turn_to(flying.number)
            flying.launch()


def _has_word(end: socket.socket, flying: DeviceBatch) -> bool:
    """Whether the slot has something to say before the device is done."""
    while not select.select((end,), (), (), 0.0)[0]:
        if flying.is_done():
            return False
        if select.select((end,), (), (), LOOK_S)[0]:
            return True
    return True
