"""From cells of T, one per batch size and shape, to steps, one per batch size: the data's shapes weigh as often as they come. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from operators.tune.decide import Step

RARE = 0.01  # shapes that fewer rows have do not decide over the p99


class Measured(Protocol):
    """A cell, as the measuring program gives it."""

    @property
    def rows(self) -> int: ...
    @property
    def dims(self) -> tuple[int, ...]: ...
    @property
    def ms(self) -> float: ...
    @property
    def p99_ms(self) -> float: ...
    @property
    def host_bytes(self) -> int: ...
    @property
    def device_bytes(self) -> int | None: ...
    @property
    def problem(self) -> str: ...


def step_of(cells: Sequence[Measured], weights: dict[tuple[int, ...], float]) -> Step:
    """The step of cells of one batch size, one cell per shape; a problem of any of them is the step's."""
    rows = cells[0].rows
    problem = next((cell.problem for cell in cells if cell.problem), "")
    if problem:
        return Step(rows, 0.0, 0.0, problem=problem)
    total = sum(weights[cell.dims] for cell in cells)
    counted = [cell for cell in cells if weights[cell.dims] >= RARE * total] or list(cells)
    return Step(
        rows,
        ms=sum(weights[cell.dims] * cell.ms for cell in cells) / total,
        slowest_ms=max(cell.p99_ms for cell in counted),
        bytes=max(cell.host_bytes if cell.device_bytes is None else cell.device_bytes for cell in cells),
    )


def sizes(most: int) -> list[int]:
    """Batch sizes to try: powers of two, and the largest there may be."""
    return [*(1 << power for power in range(most.bit_length()) if 1 << power < most), most]
