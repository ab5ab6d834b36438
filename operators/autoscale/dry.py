"""What autoscaling would do now, without doing it: two looks a moment apart, since arrivals are measured between looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec

from broker import roster
from broker.autoscale import State
from broker.connection import Link
from broker.demand import demands
from broker.settings import Settings
from operators.agent_view import look
from operators.autoscale.decide import Scaler
from operators.autoscale.loop import LOOK_S, Autoscale, state
from operators.autoscale.words import Bounds, Verdict
from operators.supervisor import Supervisor
from operators.table import count_of


class Forecast(msgspec.Struct, frozen=True):
    """Of one model: what was found, and what would follow in words."""

    model: str
    would: str
    state: State


def forecasts(
    settings: Settings,
    link: Link,
    supervisor: Supervisor,
    chosen: Mapping[str, Bounds],
    *,
    rest: Callable[[float], None] = time.sleep,
) -> list[Forecast]:
    """One for each model in `chosen`. Reads only. Raises SupervisorError, or one of connection.LOST."""
    if not chosen:
        return []
    eyes = Autoscale(settings, hardware=lambda: None)
    scalers = {model: Scaler() for model in chosen}
    found: dict[str, Forecast] = {}
    for is_last in (False, True):
        seen = look(link, supervisor, roster.now_ms(link))
        for model, demand in demands(link, list(chosen), seen.now_ms).items():
            sight = eyes.sight(link, model, seen, demand, time.monotonic())
            verdict = scalers[model].look(sight, chosen[model])
            known = state(sight, chosen[model], verdict)
            found[model] = Forecast(model, would(verdict, sight.slots, chosen[model]), known)
        if not is_last:
            rest(LOOK_S)
    return list(found.values())


def would(verdict: Verdict, slots: int, chosen: Bounds) -> str:
    """What it would do, as a sentence's rest."""
    if verdict.wanted > slots:
        return f"would start {count_of(verdict.wanted - slots, 'slot')} now"
    less = slots - max(chosen.least, verdict.needed)
    if verdict.wanted < slots or (slots and less > 0):
        return f"would stop {count_of(less, 'slot')}, one at a time, once no more came for {verdict.cooldown_s:.0f} s"
    return "would change nothing"
