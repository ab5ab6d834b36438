"""What becomes of the leases that earlier lives of a slot left behind: returned, and marked only where there is blame.

The lock proves those lives dead. A life that was killed left its batch on the page (`blame`): those jobs get the crash mark,
everything else it held goes back unharmed. When nothing was in its engine, it may have died of a job it was decoding or
encoding, and nobody knows which: a job gets the mark only if this slot's kill before held it too. So three unlucky kills
cost an innocent job nothing, and one that kills whoever touches it still comes to its end.
"""

from __future__ import annotations

from collections.abc import Set
from typing import TypeAlias

import structlog

from broker.connection import Link
from broker.queue import Queue
from workers.blame import Blame
from workers.incarnation import Incarnation

log = structlog.get_logger()

MOST_LEASES = 20_000  # per lane and life; a slot holds two batches
AT_ONCE = 500
SUSPECTS_CAP = 5_000

Lease: TypeAlias = tuple[int, bytes]  # lane, entry


def marked(held: Set[Lease], *, in_engine: Set[Lease], suspects: Set[Lease], was_killed: bool) -> Set[Lease]:
    """Which of the leases a dead life held get a crash mark."""
    if in_engine:
        return held & in_engine
    return held & suspects if was_killed else set()


def take_over(link: Link, queues: list[Queue], *, slot: str, incarnation: Incarnation, blame: Blame) -> None:
    """Returns all leases of all earlier lives of `slot`. May be repeated: what was returned is nobody's any more."""
    life, noted = blame.read()
    was_killed = incarnation.was_killed
    before = frozenset(incarnation.before.suspects)
    suspects: list[str] = []
    was_idle = not (noted and life == incarnation.before.incarnation)
    for queue in queues:
        dead = sorted(name for name in queue.consumers(link) if name.startswith(f"{slot}.") and name != queue.consumer)
        marks = 0
        for name in dead:
            one = Queue(queue.model, name)
            held = _held(link, one)
            was_idle = was_idle and not held
            known = {lease for lease in held if _name(queue, lease) in before}
            in_engine = noted if name == f"{slot}.{life}" else set()
            guilty = marked(held, in_engine=in_engine, suspects=known, was_killed=was_killed)
            marks += _mark(link, one, sorted(guilty))
            if was_killed:
                suspects += [_name(queue, lease) for lease in sorted(held)]
        if dead:
            incarnation.suspect(suspects[:SUSPECTS_CAP])
            returned = queue.take_over(link, dead, marks=0)
            log.info(
                "took over",
                slot=slot,
                model=queue.model,
                lives=len(dead),
                leases_marked=marks,
                leases_unharmed=returned,
            )
    if was_killed and was_idle and incarnation.before.was_ready:
        incarnation.pardon()


def _held(link: Link, queue: Queue) -> set[Lease]:
    """What Redis believes the consumer holds."""
    held: set[Lease] = set()
    for lane, reply in enumerate(link.call_all(queue.pending(MOST_LEASES))):
        if isinstance(reply, Exception):
            raise reply
        held.update((lane, entry) for entry, *_ in reply)
    return held


def _mark(link: Link, queue: Queue, leases: list[Lease]) -> int:
    total = 0
    for at in range(0, len(leases), AT_ONCE):
        (moved,) = link.run_all([queue.give_back(leases[at : at + AT_ONCE], marks=1)])
        if isinstance(moved, Exception):
            raise moved
        total += moved
    return total


def _name(queue: Queue, lease: Lease) -> str:
    return f"{queue.model}:{lease[0]}:{lease[1].decode()}"
