"""The host's side of one slab as torch sees it: where a batch is copied to the device from, and where its outputs land.

Of a pinned slab that is the slab itself. Of one that could not be pinned it is a pinned buffer of the engine's own, with a
copy on the host between the two. Outputs that a postprocess reads lie beside the slab, whose place its values take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from broker.errors import ArtifactError
from workers.backends import Arrays
from workers.slabs import Place, Slab


class Host:
    """One slab's buffers."""

    def __init__(self, slab: Slab, *, is_pinned: bool, has_postprocess: bool) -> None:
        self._slab_input = torch.frombuffer(slab.input, dtype=torch.uint8)
        self._slab_output = torch.frombuffer(slab.output, dtype=torch.uint8)
        self._input = self._slab_input if is_pinned else pinned(slab.input_bytes)
        is_direct = is_pinned and not has_postprocess
        self._output = self._slab_output if is_direct else pinned(slab.output_bytes)
        self._is_placed = not has_postprocess

    def filled(self, size: int) -> torch.Tensor:
        """The first `size` bytes of the slab's input region, in pinned memory."""
        if self._input is not self._slab_input:
            self._input[:size].copy_(self._slab_input[:size])
        return self._input[:size]

    def receive(
        self, places: tuple[Place, ...], size: int, outputs: Mapping[str, torch.Tensor], rows: int
    ) -> tuple[Arrays, Callable[[], None]]:
        """Starts the copies out on the current stream: of `rows` rows into the slab, or, for a postprocess, of all beside it.

        Gives the arrays they land in, and what is to be done once they have.
        """
        if size > self._output.numel():
            raise ArtifactError(
                f"outputs take {size} bytes, {self._output.numel()} were foreseen by the manifest's shapes"
            )
        arrays: Arrays = {}
        for place in places:
            kept = rows if self._is_placed else place.shape[0]
            view(self._output, place)[:kept].copy_(outputs[place.name][:kept].contiguous(), non_blocking=True)
            arrays[place.name] = view(self._slab_output if self._is_placed else self._output, place).numpy()
        if not self._is_placed or self._output is self._slab_output:
            return arrays, _nothing
        return arrays, lambda: self._move(places, rows)

    def _move(self, places: tuple[Place, ...], rows: int) -> None:
        for place in places:
            end = place.offset + rows * place.row_bytes
            self._slab_output[place.offset : end].copy_(self._output[place.offset : end])


def view(flat: torch.Tensor, place: Place) -> torch.Tensor:
    """The tensor that lies at `place` in flat bytes; offsets are 64-aligned."""
    size = place.shape[0] * place.row_bytes
    return flat[place.offset : place.offset + size].view(getattr(torch, place.dtype)).view(place.shape)


def pinned(size: int) -> torch.Tensor:
    """Bytes of pinned memory, by torch's own allocator."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def _nothing() -> None:
    """Outputs are where they belong."""
