"""`device = "auto"`: which GPU a slot gets. By UUID, spread evenly, into memory that is free; decided when a slot is assigned, and
kept for as long as it is. Never a GPU that a program named otherwise in pool.toml, never the CPU instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from broker.errors import ConfigError
from broker.figures import whole
from broker.roster import Assignment
from broker.settings import Settings
from operators import devices
from operators.hardware import Gpu, Hardware

AUTO = "auto"
CONTEXT_BYTES = 1 << 30  # a CUDA context and what is not known of a model: less than this free is full
SLACK = 0.05  # of a GPU's memory, which the driver keeps: two slots of half a GPU each fit


class Ask(msgspec.Struct, frozen=True):
    """One slot that needs a GPU. `fraction` 0: no bound is known. `needs_bytes`: what such a slot takes, where one told."""

    model: str
    fraction: float = 0.0
    needs_bytes: int | None = None
    most_per_gpu: int | None = None


class Tenant(msgspec.Struct, frozen=True):
    """One slot that has its GPU. Until it `is_loaded` the memory it will take still looks free."""

    uuid: str
    ask: Ask
    is_loaded: bool = True


def is_auto(device: str) -> bool:
    """`auto`, or `auto:N`: at most N slots of the model on one GPU."""
    return device == AUTO or device.startswith(f"{AUTO}:")


def most_per_gpu(device: str) -> int | None:
    """N of `auto:N`. Raises ConfigError for what is no number."""
    _, mark, count = device.partition(":")
    if not mark:
        return None
    if not count.isdecimal() or not int(count):
        raise ConfigError(f'device = "{device}" is no device; write "auto", or "auto:2" for two slots a GPU at most')
    return int(count)


def is_as_wished(given: str, wished: str) -> bool:
    """Whether a slot's device is what pool.toml says now."""
    return given.startswith(("GPU-", "MIG-")) if is_auto(wished) else given == wished


def place(
    settings: Settings, wished: Mapping[int, Assignment], *, held: Mapping[int, Assignment] | None = None,
    told: Mapping[int, Mapping[str, str]] | None = None, listed: Hardware | None = None,
) -> dict[int, Assignment]:  # fmt: skip
    """The assignments, those on `auto` with a GPU of this host instead.

    `held`: what other slots of the host have; `told`: what they say of themselves in Redis. `listed` is asked for where it is not
    given. Raises ConfigError when there is no GPU, or no room on any.
    """
    asking = {number: given for number, given in wished.items() if is_auto(given.device)}
    if not asking:
        return dict(wished)
    gpus = usable(settings, next(iter(asking.values())), listed)
    told = told or {}
    sizes = _sizes(held or {}, told)
    tenants = [
        Tenant(given.device, _ask(settings, given.model, sizes), told.get(number, {}).get("state") == "ready")
        for number, given in (held or {}).items()
    ]
    asks = [_ask(settings, given.model, sizes) for given in asking.values()]
    uuids = dict(zip(asking, spread(asks, gpus, tenants), strict=True))
    return {
        number: msgspec.structs.replace(given, device=uuids[number]) if number in uuids else given
        for number, given in wished.items()
    }


def usable(settings: Settings, asking: Assignment, listed: Hardware | None = None) -> Sequence[Gpu]:
    """The GPUs slots may be placed on. Raises ConfigError when there are none."""
    listed = listed or devices.hardware()
    who = f'[models.{asking.model}] device = "{asking.device}"'
    mend = f'set device = "cpu" in {settings.path or "pool.toml"}'
    if listed is None:
        raise ConfigError(f"{who} finds no GPU: no NVIDIA driver answers (libnvidia-ml.so.1); mend it, or {mend}")
    found = devices.visible(listed)
    if not found:
        lost = "; ".join(f"GPU {gpu.index}: {gpu.trouble}" for gpu in listed.gpus if gpu.trouble)
        why = lost or (f"{devices.VISIBLE} shows none" if listed.usable else "the driver lists none")
        raise ConfigError(f"{who} finds no GPU: {why}; mend it, or {mend}")
    return found


def one(settings: Settings, model: str) -> str:
    """A device to try the model on: its own, or of `auto` the GPU with most memory free. Raises ConfigError where there is none."""
    device = settings.models[model].device
    if not is_auto(device):
        return device
    most_per_gpu(device)
    found = usable(settings, Assignment(model, "", device))
    return max(found, key=lambda gpu: (gpu.free_bytes or 0, -gpu.index)).uuid or ""


def check(settings: Settings) -> None:
    """Raises ConfigError when pool.toml wants a GPU and there is none, before anything is started."""
    for name, model in settings.models.items():
        if is_auto(model.device):
            most_per_gpu(model.device)
            if model.slots:
                usable(settings, Assignment(name, "", model.device))


def spread(asks: Sequence[Ask], gpus: Sequence[Gpu], tenants: Sequence[Tenant]) -> list[str]:
    """A GPU's uuid for each ask, in their order. Pure. Raises ConfigError that names what each GPU lacks.

    Among those with room the one with the fewest slots, then the one with most memory free; one that does not tell its memory
    only behind all that do.
    """
    rooms = [_Room(gpu) for gpu in gpus]
    by_uuid = {room.uuid: room for room in rooms}
    for tenant in tenants:
        if tenant.uuid in by_uuid:
            by_uuid[tenant.uuid].take(tenant.ask, is_visible=tenant.is_loaded)
    chosen = []
    for ask in asks:
        lacks = {room.uuid: room.lacks(ask) for room in rooms}
        fitting = [room for room in rooms if not lacks[room.uuid]]
        if not fitting:
            told = "; ".join(f"{room.label}: {lacks[room.uuid]}" for room in rooms)
            raise ConfigError(
                f"no GPU has room for one more slot of {ask.model} ({told}); give it fewer slots, or a smaller memory_fraction"
            )
        best = min(fitting, key=lambda room: (room.free is None, room.slots, -(room.free or 0), room.index))
        best.take(ask, is_visible=False)
        chosen.append(best.uuid)
    return chosen


class _Room:
    """What is left on one GPU while slots are placed."""

    def __init__(self, gpu: Gpu) -> None:
        self.uuid = gpu.uuid or ""
        self.label = f"{gpu.name or 'GPU'} {self.uuid}"
        self.index = gpu.index
        self.free = gpu.free_bytes
        self._total = gpu.total_bytes
        self._promised = 0.0
        self._of: Counter[str] = Counter()

    @property
    def slots(self) -> int:
        return self._of.total()

    def lacks(self, ask: Ask) -> str:
        """Why it has no room; nothing where it has."""
        if ask.most_per_gpu is not None and self._of[ask.model] >= ask.most_per_gpu:
            return f"{self._of[ask.model]} of its slots are there, auto:{ask.most_per_gpu} allows no more"
        if self._promised + ask.fraction > 1 + 1e-9:
            return f"{self._promised:.0%} of it is promised, {ask.fraction:.0%} more are asked for"
        needed = self._needed(ask)
        slack = SLACK * (self._total or 0) if ask.needs_bytes is None and ask.fraction else 0
        if self.free is not None and self.free + slack < needed:
            return f"{needed >> 20} MB needed, {max(0, self.free) >> 20} MB free"
        return ""

    def take(self, ask: Ask, *, is_visible: bool) -> None:
        """One more slot. What it takes is gone already where that `is_visible` in what is free."""
        self._of[ask.model] += 1
        self._promised += ask.fraction
        if self.free is not None and not is_visible:
            self.free -= self._needed(ask)

    def _needed(self, ask: Ask) -> int:
        if ask.needs_bytes is not None:
            return ask.needs_bytes + CONTEXT_BYTES
        return round(ask.fraction * self._total) if ask.fraction and self._total else CONTEXT_BYTES


def _ask(settings: Settings, model: str, sizes: Mapping[str, int]) -> Ask:
    own = settings.models.get(model)
    return Ask(
        model=model,
        fraction=own.memory_fraction if own is not None else 0.0,
        needs_bytes=sizes.get(model),
        most_per_gpu=most_per_gpu(own.device) if own is not None and is_auto(own.device) else None,
    )


def _sizes(held: Mapping[int, Assignment], told: Mapping[int, Mapping[str, str]]) -> dict[str, int]:
    """model -> device memory of the slot of it that takes most, of those that say."""
    found: dict[str, int] = {}
    for number, given in held.items():
        taken = whole(told.get(number, {}).get("device_bytes"))
        if taken and given.device != "cpu":
            found[given.model] = max(found.get(given.model, 0), taken)
    return found
