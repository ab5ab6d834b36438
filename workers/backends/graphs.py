"""CUDA graphs: the forward of each shape, captured once and replayed. All share one memory pool, since one replays at a time.

A replay costs the host one launch instead of hundreds. It repeats what the capture saw, so only models that always do the
same belong here. Whatever goes wrong ends in running eagerly: slower, never wrong.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from workers import console
from workers.slabs import Place

Outputs = dict[str, torch.Tensor]


class Graphs:
    """The captured shapes of one model on one stream."""

    def __init__(self, forward: Callable[[list[torch.Tensor]], Outputs], *, stream: Any, device: str) -> None:
        self.why_not = ""  # nothing more is captured since this happened
        self._forward = forward
        self._stream = stream
        self._device = device
        self._pool: Any = None
        self._captured: dict[tuple[Place, ...], tuple[Any, torch.Tensor, Outputs]] = {}

    def capture(
        self, places: tuple[Place, ...], size: int, views: Callable[[torch.Tensor], list[torch.Tensor]]
    ) -> bool:
        """Captures the forward over inputs of its own. Run the shape eagerly before: libraries ready themselves at first use.

        False when it could not be captured: this shape and all that come later run eagerly.
        """
        if self.why_not:
            return False
        try:
            self._captured[places] = self._capture(size, views)
        except Exception as error:  # noqa: BLE001 - whatever no graph may do; the caller asks the device whether it lives
            self._stop(f"{type(error).__name__}: {error}")
            return False
        return True

    def _capture(
        self, size: int, views: Callable[[torch.Tensor], list[torch.Tensor]]
    ) -> tuple[Any, torch.Tensor, Outputs]:
        inputs = torch.zeros(size, dtype=torch.uint8, device=self._device)
        torch.cuda.synchronize(self._device)
        gc.collect()
        torch.cuda.empty_cache()  # what other streams hold idle is of no use to the graphs' pool
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream), torch.inference_mode():
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                outputs = self._forward(views(inputs))
            except BaseException:
                with suppress(RuntimeError):  # it only repeats that the capture failed, and must be ended all the same
                    graph.capture_end()
                raise
            graph.capture_end()
            graph.replay()  # the first replay uploads it
        self._stream.synchronize()
        return graph, inputs, outputs

    def replay(self, places: tuple[Place, ...], staged: torch.Tensor) -> Outputs | None:
        """Starts the forward over `staged` on the current stream; its outputs hold until the next replay. None: run it eagerly."""
        known = self._captured.get(places)
        if known is None:
            return None
        graph, inputs, outputs = known
        inputs.copy_(staged[: inputs.numel()], non_blocking=True)
        graph.replay()
        return outputs

    def drop(self, why: str) -> None:
        """Gives the graphs' memory back; from now on everything runs eagerly."""
        if self._captured:
            for graph, _, _ in self._captured.values():
                graph.reset()
            self._captured.clear()
            self._pool = None
            self._stop(why)

    def _stop(self, why: str) -> None:
        if not self.why_not:
            self.why_not = " ".join(why.split())[:500]
            console.warn(
                "cuda graphs off", reason=self.why_not, captured=len(self._captured), next="the rest runs eagerly"
            )
