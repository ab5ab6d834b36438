"""The bare loop: what this GPU does with the model and no queue. Nobody's queue can be faster, so it spares nothing it could use.

Pinned buffers, two of each, copies in and out on a stream of their own beside the forward, a CUDA graph where the pool has
one. Its batches come from ordinary memory, as any program's do: one copy on the host into the pinned buffer.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.models import Net, Rows

cuda: Any = torch.cuda  # its streams and events are untyped
LAPS = 8  # through the batches before the device is waited for, so that the last batches weigh little


class Bare:
    """One model at one batch size on one device."""

    def __init__(self, net: Net, *, device: str, precision: str, cuda_graphs: bool, rows: int) -> None:
        self._on_gpu = device != "cpu"
        dtype = getattr(torch, precision)
        self._dtype = dtype
        self._module = net.module().to(dtype).to(device)
        self._names = [tensor.name for tensor in net.inputs]
        first = net.rows(rows)
        self._host_in = [self._pinned(first) for _ in range(2)]
        self._device_in = [{name: value.to(device) for name, value in one.items()} for one in self._host_in]
        out = self._forward(self._device_in[0])
        self._host_out = [torch.empty(out.shape, dtype=out.dtype, pin_memory=self._on_gpu) for _ in range(2)]
        self._graphs: list[tuple[Any, torch.Tensor]] = []
        if self._on_gpu:
            self._compute, self._copies = cuda.Stream(), cuda.Stream()
            self._arrived = [cuda.Event() for _ in range(2)]
            self._landed = [cuda.Event(blocking=True) for _ in range(2)]
            if cuda_graphs:
                self._capture()

    def _pinned(self, rows: Rows) -> dict[str, torch.Tensor]:
        tensors = {name: torch.from_numpy(array.copy()) for name, array in rows.items()}
        return {name: one.pin_memory() for name, one in tensors.items()} if self._on_gpu else tensors

    @torch.inference_mode()
    def _forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        out: torch.Tensor = self._module(*(inputs[name] for name in self._names)).float()
        return out

    def _capture(self) -> None:
        for inputs in self._device_in:
            with cuda.stream(self._compute):
                for _ in range(3):
                    self._forward(inputs)
            cuda.synchronize()
            graph = cuda.CUDAGraph()
            with cuda.graph(graph, stream=self._compute):
                out = self._forward(inputs)
            self._graphs.append((graph, out))

    def _start(self, at: int, batch: Rows) -> None:
        """Batch `at` goes in, through and out; nothing here waits for the device."""
        side = at % 2
        host = self._host_in[side]
        for name, array in batch.items():
            host[name].copy_(torch.from_numpy(array))
        with cuda.stream(self._copies):
            for name, tensor in self._device_in[side].items():
                tensor.copy_(host[name], non_blocking=True)
            self._arrived[side].record()
        with cuda.stream(self._compute):
            self._compute.wait_event(self._arrived[side])
            if self._graphs:
                graph, out = self._graphs[side]
                graph.replay()
            else:
                out = self._forward(self._device_in[side])
            self._host_out[side].copy_(out, non_blocking=True)
            self._landed[side].record()

    def _one(self, batch: Rows) -> NDArray[Any]:
        tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
        answer: NDArray[Any] = self._forward(tensors).numpy()
        return answer

    def rows_per_s(self, batches: list[Rows], repeats: int) -> float:
        """Over `repeats` turns of some laps through the batches, two of them under way; the median turn."""
        rows = len(next(iter(batches[0].values())))
        self._turn(batches)
        taken = []
        for _ in range(repeats):
            began = time.perf_counter()
            self._turn(batches)
            taken.append(time.perf_counter() - began)
        return rows * len(batches) * LAPS / median(taken)

    def _turn(self, batches: list[Rows]) -> None:
        if not self._on_gpu:
            for batch in batches * LAPS:
                self._one(batch)
            return
        for at, batch in enumerate(batches * LAPS):
            if at >= 2:
                self._landed[at % 2].synchronize()
                np.copy(self._host_out[at % 2].numpy())  # somebody takes the answers
            self._start(at, batch)
        cuda.synchronize()

    def p50_ms(self, batch: Rows, times: int) -> float:
        """One batch at a time, from the array in ordinary memory to the answer there."""
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            if self._on_gpu:
                self._start(0, batch)
                self._landed[0].synchronize()
            else:
                self._one(batch)
            taken.append((time.perf_counter() - began) * 1e3)
        return median(taken)
