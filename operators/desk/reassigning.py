"""What slots are assigned when the settings change, and what they get when that is taken back. Restarts nothing.

While settings change slot by slot, `scale`, autoscale and spares add slots by those in force at that moment; taken back, those
slots too must start with what was there before.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from broker import overlap, roster
from broker.arrangement import arrange
from broker.connection import Link
from broker.roster import Assignment
from broker.settings import Settings
from operators import applied
from operators.leavers import take_out
from operators.placement import is_as_wished
from operators.plan import assignment
from operators.supervisor import Supervisor
from operators.wishes import passing, per_model, placed


class PutBack(msgspec.Struct, frozen=True):
    """Slots that came meanwhile: `added` run with the settings taken back until they restart, `strangers` serve what those of before do
    not know."""

    added: tuple[int, ...] = ()
    strangers: tuple[int, ...] = ()


def reassigned(settings: Settings, link: Link, held: Mapping[int, Assignment]) -> dict[int, Assignment]:
    """Those of changed artifacts and devices; slots read them when they start. Where `auto` placed a slot before, it stays."""
    changed = {}
    for number, given in held.items():
        if given.model in settings.models:
            wish = assignment(settings, given.model)
            if is_as_wished(given.device, wish.device):
                wish = msgspec.structs.replace(wish, device=given.device)
            if wish != given:
                changed[number] = wish
    return placed(settings, link, changed)


def put_back(settings: Settings, link: Link, held: Mapping[int, Assignment]) -> PutBack:
    """Every slot gets what it, or the one whose place it took, was assigned before; one that came beside, what it would have got
    before. To be called under the pool's lock, and before the settings themselves are given up."""
    found = roster.assignments(link, settings.host)
    left = [given for number, given in held.items() if number not in found]
    back: dict[int, Assignment] = {}
    added: dict[int, Assignment] = {}
    for number, given in found.items():
        old = held.get(number) or next((one for one in left if one.model == given.model), None)
        if number not in held and old is not None:
            left.remove(old)
        if old is None:
            added[number] = given
        elif old.model == given.model and old != given:
            back[number] = old
    before = applied.carried_out(settings)
    strangers: tuple[int, ...] = ()
    if before is not None:
        back |= reassigned(before, link, added)
        strangers = tuple(number for number, given in added.items() if given.model not in before.models)
    arrange(link, settings.host, wanted={}, assigned=back)
    return PutBack(tuple(number for number in added if number in back), strangers)


def send_away(settings: Settings, link: Link, supervisor: Supervisor, strangers: tuple[int, ...]) -> None:
    """Drains slots of models that the settings in force do not know. To be called under the pool's lock. Raises SupervisorError."""
    found = roster.assignments(link, settings.host)
    leaving = {number: found[number].model for number in strangers if number in found}
    beside = passing(overlap.requests(link, settings.host))
    stay = per_model({n: one for n, one in found.items() if n not in beside and n not in leaving})
    if leaving:
        take_out(settings, link, supervisor, leaving, wanted={model: stay[model] for model in leaving.values()})
