"""What an operator set about autoscaling a host's models, and what the host's agent says it does. Written by `penstock autoscale` and
the agent; how many slots it takes is decided in `operators/autoscale`.
"""

from __future__ import annotations

import msgspec

from broker import keys
from broker.connection import Link
from broker.settings_tables import AutoscaleSettings

FIELD = "autoscale"  # of the agent's hash: as it lives and dies with the agent, nobody reads decisions of a dead one


class Override(msgspec.Struct, frozen=True, omit_defaults=True):
    """Stands before [models.NAME.autoscale] until the pool goes down. None: as there."""

    least: int | None = None
    most: int | None = None
    target_s: float | None = None
    is_off: bool = False

    def over(self, settings: AutoscaleSettings) -> AutoscaleSettings:
        """What is in force; `most` 0: the model is not scaled."""
        return AutoscaleSettings(
            least=settings.least if self.least is None else self.least,
            most=0 if self.is_off else settings.most if self.most is None else self.most,
            target_s=settings.target_s if self.target_s is None else self.target_s,
        )


class State(msgspec.Struct, frozen=True):
    """The agent's last decision on one model. Rates are jobs/s; None is what it does not know yet."""

    least: int
    most: int
    target_s: float
    slots: int
    wanted: int
    needed: int
    why: str
    is_short: bool = False  # the target is missed, and no further slot may be had
    jobs: int = 0
    oldest_s: float = 0.0
    arrival_per_s: float | None = None
    slot_per_s: float | None = None
    refused: str = ""  # why what it wanted could not be done


def overrides(link: Link, host: str) -> dict[str, Override]:
    """model -> what an operator set; a body nobody can read counts as off, for nothing is to be started by a guess."""
    raw = link.call("HGETALL", keys.autoscale(host))
    return {raw[at].decode(errors="replace"): _override(raw[at + 1]) for at in range(0, len(raw), 2)}


def override(link: Link, host: str, model: str, wish: Override) -> None:
    """Sets it; one that says nothing is taken away."""
    if wish == Override():
        link.call("HDEL", keys.autoscale(host), model)
    else:
        link.call("HSET", keys.autoscale(host), model, msgspec.json.encode(wish))


def clear(link: Link, host: str) -> None:
    """The pool starts afresh: pool.toml holds."""
    link.call("DEL", keys.autoscale(host))


def encode(states: dict[str, State]) -> str:
    """For the agent's hash."""
    return msgspec.json.encode(states).decode()


def decode(text: str) -> dict[str, State]:
    """model -> state, of the agent's hash; empty for what is none."""
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, State])
    except msgspec.MsgspecError:
        return {}


def _override(body: bytes) -> Override:
    try:
        return msgspec.json.decode(body, type=Override)
    except msgspec.MsgspecError:
        return Override(is_off=True)
