"""GPUs of a host as status shows them, and what is wrong with them. Pure: what it is told is what it knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from broker.roster import Assignment
from broker.settings import Settings
from operators.hardware import Gpu, Hardware
from operators.snapshot import Problem
from operators.table import size


def lines(hardware: Hardware) -> list[tuple[str, ...]]:
    """A row for each GPU, headed. `-` is what the driver does not tell."""
    return [("GPU", "NAME", "UUID", "FREE", "TOTAL", ""), *(_row(gpu) for gpu in hardware.gpus)]


def troubles(settings: Settings, hardware: Hardware | None, given: Mapping[int, Assignment]) -> Iterator[Problem]:
    """GPUs that are lost, and slots whose GPU the driver lists no more; nothing of a pool that serves on the CPU alone."""
    if hardware is None or all(model.device == "cpu" for model in settings.models.values()):
        return
    for gpu in hardware.gpus:
        if gpu.trouble:
            yield Problem(
                "error", f"GPU {gpu.index}{f' ({gpu.uuid})' if gpu.uuid else ''} cannot be used: {gpu.trouble}",
                "look at it with `nvidia-smi`; most often only a reset of it, or of the host, helps",
            )  # fmt: skip
    known = {gpu.uuid for gpu in hardware.usable}
    for number, one in sorted(given.items()):
        if one.device.startswith(("GPU-", "MIG-")) and not any((uuid or "").startswith(one.device) for uuid in known):
            yield Problem(
                "error", f"slot {number} ({one.model}) is assigned to {one.device}, which the driver does not list",
                f"penstock drain --slot {number}, then `penstock scale {one.model} N`: it gets another GPU",
            )  # fmt: skip


def _row(gpu: Gpu) -> tuple[str, ...]:
    note = gpu.trouble or ("split into MIG instances" if gpu.is_split else "")
    return str(gpu.index), gpu.name or "-", gpu.uuid or "-", size(gpu.free_bytes), size(gpu.total_bytes), note
