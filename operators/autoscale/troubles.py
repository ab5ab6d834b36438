"""What of autoscaling an operator should know, each with the command that mends it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from broker.autoscale import State
from broker.settings import Settings
from operators.snapshot import Problem
from operators.table import count_of


def troubles(settings: Settings, states: Mapping[str, State]) -> Iterator[Problem]:
    """Of each model that the agent scales."""
    for model, one in states.items():
        if one.refused:
            text, _, mend = one.refused.rpartition("; ")  # our errors end in their mend
            yield Problem(
                "warning", f"{model}: autoscale wants {count_of(one.wanted, 'slot')} and has {one.slots}: {text or one.refused}",
                mend if text else f"penstock autoscale {model} --max {max(1, one.slots)}",
            )  # fmt: skip
        elif one.is_short:
            yield Problem(
                "warning",
                f"{model}: autoscale has all {count_of(one.slots, 'slot')} it may start, and the oldest job is {one.oldest_s:.3g} s old, "
                f"its target {one.target_s:g} s",
                f"penstock autoscale {model} --max {one.needed}"
                if one.slots >= one.most and one.needed <= settings.pool.most_slots
                else "raise pool.most_slots, then `penstock down` and `penstock up`; or add a host",
            )


def asleep(states: Mapping[str, State]) -> frozenset[str]:
    """Models that may have no slot at all while nothing comes."""
    return frozenset(model for model, one in states.items() if not one.least)
