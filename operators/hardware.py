"""A host's GPUs as its driver tells of them, in the form the agent publishes. Plain values: None is what nobody told, never 0."""

from __future__ import annotations

import msgspec

FIELD = "devices"  # of the agent's hash in Redis


class Gpu(msgspec.Struct, frozen=True):
    """One GPU, or one MIG instance, then `parent` is its GPU's uuid. `trouble`: why nothing may run on it; its uuid may be unknown."""

    uuid: str | None
    name: str | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    trouble: str = ""
    parent: str = ""
    is_split: bool = False  # into MIG instances, which alone can be used
    index: int = 0  # by NVML's count, a MIG instance's GPU's

    @property
    def is_usable(self) -> bool:
        return bool(self.uuid) and not self.trouble and not self.is_split


class Hardware(msgspec.Struct, frozen=True):
    """What the driver of one host lists."""

    driver: str | None = None
    gpus: tuple[Gpu, ...] = ()

    @property
    def usable(self) -> tuple[Gpu, ...]:
        return tuple(gpu for gpu in self.gpus if gpu.is_usable)


def encode(hardware: Hardware | None) -> str:
    """For the agent's hash; empty where no driver answers."""
    return msgspec.json.encode(hardware).decode() if hardware is not None else ""


def decode(text: str) -> Hardware | None:
    """Of the agent's hash; None for nothing, and for what is none."""
    try:
        return msgspec.json.decode(text, type=Hardware) if text else None
    except msgspec.MsgspecError:
        return None
