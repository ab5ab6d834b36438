"""What stopped a measurement from going faster, judged by the cores that were used. Pure: figures in, a sentence out."""

from __future__ import annotations

from collections.abc import Mapping

BUSY = 0.85  # of a core: a process that runs one thread and uses so much has no time left
FULL = 0.92  # of what the model allows: nothing left to explain
FOREIGN = 0.15  # of the machine: what other programs may take before a figure is theirs too


def bound(*, shares: Mapping[str, float], counts: Mapping[str, int], others: float, cores: int) -> str:
    """Which cores were the limit, with all shares.

    `shares`: role -> cores used by all its `counts[role]` processes (1 where it is not named); `others`: cores that other programs
    used. A machine with no core left comes before the process that happens to be the busiest on it.
    """
    used = f"({', '.join(f'{role} {share:.2f}' for role, share in shares.items())})"
    ours = sum(shares.values())
    if others > FOREIGN * cores and ours + others >= BUSY * cores:
        return f"other programs, {others:.2f} of {cores} cores: not a figure of ours {used}"
    if ours >= BUSY * cores:
        return f"the machine's {cores} cores {used}"
    each = {role: share / counts.get(role, 1) for role, share in shares.items()}
    busiest = max(each, key=lambda role: each[role])
    if each[busiest] >= BUSY:
        return f"one core, the {busiest}'s {used}"
    return f"waiting for each other, not for a core {used}"


def of_model(core_bound: str, *, of_possible: float, fill: float) -> str:
    """The same for a model whose own time is known, with the two factors of what was lost.

    `of_possible`: jobs/s of what the model alone allows; `fill`: the mean batch of the largest one.
    """
    if of_possible >= FULL:
        return f"the model itself, {of_possible:.0%} of what it allows"
    return f"{core_bound}; batches {fill:.0%} full, a forward running {of_possible / fill:.0%} of the time"
