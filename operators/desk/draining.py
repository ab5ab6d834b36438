"""Slots taken out of service for good: they finish what they hold, give back what they only read ahead, and stay away.

Fewer are wanted from then on, so neither the agent nor `penstock up` on the running pool starts them again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from broker import overlap, roster
from broker.connection import Link
from broker.settings import Settings
from operators.desk.targets import Target
from operators.leavers import take_out
from operators.patience import telling
from operators.pool_lock import changing
from operators.supervisor import Supervisor, stop_wait_s
from operators.table import count_of
from operators.wishes import passing, per_model

Say = Callable[[str], None]


class Drained(msgspec.Struct, frozen=True):
    """What was done. `wanted` and `queued` are by model: slots this host still wants, and jobs that wait there."""

    slots: tuple[int, ...]
    before: dict[str, int]
    wanted: dict[str, int]
    queued: dict[str, int]


def drain(settings: Settings, link: Link, supervisor: Supervisor, targets: Sequence[Target], *, say: Say) -> Drained:
    """Takes the targets out of service; those that are gone meanwhile are left out. Raises SupervisorError."""
    host = settings.host
    with changing(settings):
        beside = passing(overlap.requests(link, host))
        held = {number: given for number, given in roster.assignments(link, host).items() if number not in beside}
        leaving = {
            one.number: one.model for one in targets if one.number in held and held[one.number].model == one.model
        }
        before = per_model(held)
        wanted = {model: before[model] - count for model, count in Counter(leaving.values()).items()}
        most_s = stop_wait_s(settings)
        with telling(
            say, f"{count_of(len(leaving), 'slot')} to drain", most_s=most_s, then="supervisord kills it then"
        ):
            take_out(settings, link, supervisor, leaving, wanted=wanted)
    depths = {model: link.call_all(roster.depth_commands(model))[:4] for model in wanted}
    queued = {model: sum(one for one in found if isinstance(one, int)) for model, found in depths.items()}
    return Drained(tuple(sorted(leaving)), {model: before[model] for model in wanted}, wanted, queued)
