"""Holds lanes of a model and lets them go. What slots do about it is theirs (workers/claimer); the audit is the command's."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import msgspec

from broker import audit, paused, roster
from broker.connection import Link
from broker.errors import UnknownModel
from broker.paused import Pause
from broker.settings import Settings, unknown
from operators import table

LONGEST_REASON = 200  # it is read in one line of `status`, and in producers' errors


class Held(msgspec.Struct, frozen=True):
    """What a command changed, and how the model stands since: the lanes paused now, those paused before. Redis' time."""

    model: str
    changed: list[str]
    paused: dict[str, Pause]
    before: dict[str, Pause]
    at_ms: int


def pause(link: Link, settings: Settings, model: str, lanes: Sequence[str], *, reason: str) -> Held:
    """Raises UnknownModel. A lane that is paused already stays under its first name and reason."""
    require_known(link, settings, model)
    before, now_ms = paused.pauses(link, model), roster.now_ms(link)
    told = Pause(f"{audit.user()}@{socket.gethostname()}", table.cut(reason, LONGEST_REASON), now_ms)
    changed = paused.pause(link, model, lanes, told)
    return Held(model, changed, paused.pauses(link, model), before, now_ms)


def resume(link: Link, settings: Settings, model: str, lanes: Sequence[str]) -> Held:
    """Raises UnknownModel, for one that is not paused either."""
    before = paused.pauses(link, model)
    if not before:
        require_known(link, settings, model)
    changed = paused.resume(link, model, lanes)
    return Held(model, changed, paused.pauses(link, model), before, roster.now_ms(link))


def require_known(link: Link, settings: Settings, model: str) -> None:
    """A pause of a name nobody serves would look like one, and hold nothing."""
    known = {*roster.models(link), *settings.models}
    if model not in known:
        raise UnknownModel(f"{unknown('model', model, known)}; see `penstock status`")
