"""How autoscaling stands on this host: what is in force for each model and what the agent made of it; and changing the first."""

from __future__ import annotations

from typing import Any

import msgspec

from broker import autoscale, roster
from broker.autoscale import Override, State
from broker.connection import Link
from broker.errors import ConfigError
from broker.settings import Settings, unknown
from operators import applied
from operators.autoscale import bounds
from operators.autoscale.words import Bounds
from operators.pool_lock import changing
from operators.reach import reached
from operators.supervisor import Supervisor


class Standing(msgspec.Struct, frozen=True):
    """Of one model. `bounds` None: it is not scaled. `state` None: the agent has not decided yet, or does not live."""

    model: str
    bounds: Bounds | None
    state: State | None = None
    is_overridden: bool = False  # by a command, for as long as the pool is up


def standings(settings: Settings, link: Link) -> list[Standing]:
    """Every model of this host."""
    wishes = autoscale.overrides(link, settings.host)
    chosen = bounds.in_force(settings, wishes)
    states = autoscale.decode(roster.agent(link, settings.host).get(autoscale.FIELD, ""))
    return [
        Standing(model, chosen.get(model), states.get(model) if model in chosen else None, model in wishes)
        for model in settings.models
    ]


def change(settings: Settings, link: Link, model: str, **wish: Any) -> Bounds | None:
    """Sets what is given of `least`, `most`, `target_s`, `is_off` over what stands; what is in force then, None: it is off.

    Raises ConfigError for bounds that cannot be, and SupervisorError while another command changes the pool.
    """
    with changing(settings):
        before = autoscale.overrides(link, settings.host).get(model, Override())
        after = merged(before, **wish)
        found = bounds.checked(settings, model, after)
        autoscale.override(link, settings.host, model, after)
    return found


def wished(settings: Settings, link: Link, model: str = "", **wish: Any) -> dict[str, Bounds]:
    """What would be in force with the wish: of all models that are scaled, or of one. Raises ConfigError as `change` does."""
    before = autoscale.overrides(link, settings.host)
    if not model:
        return bounds.in_force(settings, before)
    own = before.get(model, Override())
    found = bounds.checked(settings, model, merged(own, **wish) if wish else own)
    return {model: found} if found is not None else {}


def merged(before: Override, **wish: Any) -> Override:
    """The wish over what was set before; whoever sets a bound switches it on."""
    given = {name: value for name, value in wish.items() if value is not None}
    return msgspec.structs.replace(before, **{"is_off": False, **given})


def running(settings: Settings, model: str = "") -> Settings:
    """What the running pool was given. Raises SupervisorError when it is not up, ConfigError for a model it does not know."""
    if model and model not in settings.models:
        raise ConfigError(unknown("model", model, settings.models))
    Supervisor(settings).require()
    given = applied.in_force(settings)
    if model and model not in given.models:
        raise ConfigError(f"the running pool does not know {model} yet; `penstock config reload` applies pool.toml")
    return given


def remark(settings: Settings, model: str) -> str:
    """What to say to whoever scales by hand a model that is autoscaled; nothing of others."""
    with reached(settings) as link:
        chosen = bounds.in_force(settings, autoscale.overrides(link, settings.host)).get(model)
    if chosen is None:
        return ""
    return (
        f"autoscale keeps {model} between {chosen.least} and {chosen.most} slots and may change this; "
        f"`penstock autoscale {model} --off` leaves it to you"
    )
