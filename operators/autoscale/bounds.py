"""Which models of this host are autoscaled, and between what: pool.toml, and what an operator set over it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from broker.autoscale import Override
from broker.errors import ConfigError
from broker.settings import Settings
from operators.autoscale.words import Bounds

NOTHING = Override()


def in_force(settings: Settings, overrides: Mapping[str, Override]) -> dict[str, Bounds]:
    """model -> bounds, of models that are autoscaled."""
    found = {}
    for model, own in settings.models.items():
        scale = overrides.get(model, NOTHING).over(own.autoscale)
        if scale.most:
            found[model] = Bounds(min(scale.least, scale.most), scale.most, scale.target_s)
    return found


def checked(settings: Settings, model: str, wish: Override) -> Bounds | None:
    """What the wish makes of the model, None where it is off. Raises ConfigError when it cannot be."""
    scale = wish.over(settings.models[model].autoscale)
    if wish.is_off:
        return None
    if not scale.most:
        raise ConfigError(f"{model}: autoscale needs to know how far it may go: `penstock autoscale {model} --max N`")
    if scale.least > scale.most:
        raise ConfigError(f"{model}: --min {scale.least} is above --max {scale.most}; set both")
    if scale.most > settings.pool.most_slots:
        raise ConfigError(
            f"{model}: --max {scale.most} is above pool.most_slots = {settings.pool.most_slots}; ask for less, or raise it"
        )
    return Bounds(scale.least, scale.most, scale.target_s)
