"""PyTorch on a GPU: copies on a stream of their own beside the forward, from and to pinned slabs, CUDA graphs where wanted.

A batch goes to the device in one copy, as its inputs lie in the slab; outputs come back into the slab without a stop. One
forward computes at a time, so that what the device complains of is that forward's: only copies of the next run beside it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from broker.errors import DeviceError
from workers import devices
from workers.backends import Arrays
from workers.backends.graphs import Graphs
from workers.backends.host import Host, view
from workers.backends.pinned import PinnedSlab, pin
from workers.backends.primary import Primary
from workers.backends.pytorch import DTYPES, TorchBackend
from workers.slabs import Place, Slab, layout

NAMES = {dtype: name for name, dtype in DTYPES.items()}
Places = tuple[Place, ...]
_cuda: Any = torch.cuda  # its streams and events are untyped


class Staged:
    """A batch whose inputs are on their way to the device."""

    def __init__(self, index: int, places: Places, arrived: Any) -> None:
        self.index = index
        self.places = places
        self.arrived = arrived


class TorchLanding:
    """A forward on its way; see `Landing`."""

    def __init__(self, arrays: Arrays, began: Any, ended: Any, land: Callable[[], None]) -> None:
        self.ms = 0.0
        self._arrays = arrays
        self._began = began
        self._ended = ended
        self._land = land

    def is_done(self) -> bool:
        try:
            return bool(self._ended.query())
        except RuntimeError:
            return True

    def finish(self) -> Arrays:
        self._ended.synchronize()
        self.ms = float(self._began.elapsed_time(self._ended))
        self._land()
        return self._arrays


class CudaTorch(TorchBackend):
    """A callable model on a GPU."""

    def __init__(self, forward: Callable[..., Any], *, device: str, is_captured: bool = False, **edges: Any) -> None:
        super().__init__(forward, device=device, **edges)
        self._compute = _cuda.Stream(device)
        self._copies = _cuda.Stream(device)
        self._graphs = Graphs(self._answer, stream=self._compute, device=device) if is_captured else None
        self._pulse = torch.zeros(1, device=device)
        self._rooms: list[torch.Tensor] = []  # the inputs of each slab on the device, as they lie in the slab
        self._hosts: list[Host] = []
        self._pinned: list[PinnedSlab] = []
        if not self.probe():  # loads its kernel now: out of memory, that could fail for want of memory
            raise DeviceError(f"{device} does not work: a first kernel failed; see `nvidia-smi`")

    # --- one after the other --------------------------------------------------------------------

    def run(self, inputs: Arrays) -> Arrays:
        """One forward, from and to memory of the caller's own."""
        places, size = layout(_columns(inputs, self._inputs), len(inputs[self._inputs[0]]))
        return self._launch(self.stage(0, places, size, inputs), _fresh).finish()

    def device_bytes(self) -> int | None:
        """What torch's allocator holds on the device, CUDA graphs included."""
        return int(torch.cuda.memory_reserved(self.device))

    def probe(self) -> bool:
        """Whether a kernel still runs on the device; a sticky error fails every call from the first on."""
        try:
            self._pulse.add_(1)
            torch.cuda.synchronize(self.device)
        except RuntimeError:
            return False
        return True

    def free(self) -> None:
        """Drops CUDA graphs and what cycles keep, then gives the allocator's unused blocks back to the device."""
        if self._graphs is not None:
            self._graphs.drop("out of memory")
        gc.collect()
        with torch.cuda.device(self.device):
            torch.cuda.empty_cache()

    # --- with slabs -------------------------------------------------------------------------------

    def attach(self, slabs: Sequence[Slab], *, has_postprocess: bool) -> None:
        self._pinned = pin(slabs, Primary(devices.parse(self.device).index))
        self._hosts = [Host(slab, is_pinned=bool(self._pinned), has_postprocess=has_postprocess) for slab in slabs]

    def detach(self) -> None:
        torch.cuda.synchronize(self.device)
        for one in self._pinned:
            one.release()

    def prepare(self, inputs: Arrays) -> bool:
        if self._graphs is None:
            return False
        places, size = layout(_columns(inputs, self._inputs), len(inputs[self._inputs[0]]))
        if self._graphs.capture(places, size, lambda flat: self._views(flat, places)):
            return True
        gc.collect()
        torch.cuda.empty_cache()
        if not self.probe():
            raise DeviceError(
                f"{self.device} broke while a CUDA graph was captured: {self._graphs.why_not}; set its option cuda_graphs to false"
            )
        return False

    def stage(self, index: int, places: Places, size: int, inputs: Arrays | None = None) -> Staged:
        room = self._room(index, size)
        with torch.cuda.stream(self._copies):
            if inputs is None:
                room[:size].copy_(self._hosts[index].filled(size), non_blocking=True)
            else:
                for place in places:
                    view(room, place).copy_(_tensor(inputs[place.name]))  # pageable memory: waits for this copy alone
            arrived = _cuda.Event()
            arrived.record(self._copies)
        return Staged(index, places, arrived)

    def launch(self, staged: Staged, rows: int) -> TorchLanding:
        host = self._hosts[staged.index]
        return self._launch(staged, lambda outputs: host.receive(*_places_of(outputs), outputs, rows))

    def _launch(
        self, staged: Staged, leave: Callable[[dict[str, torch.Tensor]], tuple[Arrays, Callable[[], None]]]
    ) -> TorchLanding:
        room = self._rooms[staged.index]
        try:
            with torch.cuda.stream(self._compute), torch.inference_mode():
                self._compute.wait_event(staged.arrived)
                # Timed by the device: the host may look late. Blocking: a waiting engine leaves its core to others.
                began = _cuda.Event(enable_timing=True)
                ended = _cuda.Event(enable_timing=True, blocking=True)
                began.record(self._compute)
                outputs = self._graphs.replay(staged.places, room) if self._graphs is not None else None
                if outputs is None:
                    outputs = self._answer(self._views(room, staged.places))
                arrays, land = leave(outputs)
                ended.record(self._compute)
        except Exception as error:
            try:
                self._copies.synchronize()  # the slab goes back to the slot with the answer
                self._compute.synchronize()
            except RuntimeError as late:  # what the kernels launched before had to say
                raise late from error
            raise
        return TorchLanding(arrays, began, ended, land)

    def _room(self, index: int, size: int) -> torch.Tensor:
        """Grows for all slabs at once, which happens in the warm-up only: later nothing is larger than what ran there."""
        if index >= len(self._rooms) or self._rooms[index].numel() < size:
            torch.cuda.synchronize(self.device)
            count = max(index + 1, len(self._hosts), 1)
            self._rooms = []
            self._rooms = [torch.empty(size, dtype=torch.uint8, device=self.device) for _ in range(count)]
            torch.cuda.synchronize(self.device)
        return self._rooms[index]

    def _views(self, room: torch.Tensor, places: Places) -> list[torch.Tensor]:
        by_name = {place.name: place for place in places}
        return [view(room, by_name[name]) for name in self._inputs]


def _fresh(outputs: dict[str, torch.Tensor]) -> tuple[Arrays, Callable[[], None]]:
    return {name: value.cpu().numpy() for name, value in outputs.items()}, lambda: None


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """torch knows no read-only arrays."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _columns(inputs: Arrays, names: tuple[str, ...]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(name, str(inputs[name].dtype), inputs[name].shape[1:]) for name in names]


def _places_of(outputs: dict[str, torch.Tensor]) -> tuple[Places, int]:
    """Where outputs lie in a slab."""
    rows = next(iter(outputs.values())).shape[0]
    columns = ((name, NAMES[value.dtype], tuple(value.shape[1:])) for name, value in outputs.items())
    return layout(columns, rows)
