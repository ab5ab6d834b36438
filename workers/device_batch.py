"""One Run on a device that works beside the host: staged, launched, landed, answered. What `device_loop` puts in order.

Each step may fail; what failed is kept as a finding, never as an exception, whose traceback would hold the batch's tensors.
Knows neither the socket nor the slot.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workers.backends import Arrays, Landing, Overlapping
from workers.exchange import Note, Ran, Run
from workers.failures import Finding, classify, describe

if TYPE_CHECKING:
    from workers.forward import Forward


class DeviceBatch:
    """One batch. Call its steps in order: `prepare`, perhaps `stage`, `launch`, `land`, `ran`."""

    def __init__(self, forward: Forward, backend: Overlapping, message: Run) -> None:
        self._forward = forward
        self._backend = backend
        self._message = message
        self._notes: list[Note] = []
        self._made: Arrays | None = None  # by the artifact's preprocess
        self._staged: Any = None
        self._landing: Landing | None = None
        self._outputs: Arrays = {}
        self._host_ms = 0.0
        self._failure: tuple[Finding, str] | None = None

    @property
    def number(self) -> int:
        """The slot's number of the batch."""
        return self._message.seq

    @property
    def has_failed(self) -> bool:
        return self._failure is not None

    def prepare(self) -> None:
        """What the host does first: the artifact's preprocess, where there is one."""
        if self._message.lengths is not None:
            began = time.perf_counter()
            self._try(self._preprocess)
            self._host_ms = (time.perf_counter() - began) * 1e3
            self._forward.stamp()

    def stage(self) -> None:
        """Starts the copy to the device beside another forward. Only an attempt: what fails now may be the other's fault."""
        if not self.has_failed:
            try:
                self._stage()
            except Exception:  # noqa: BLE001 - done again by `launch`, when nothing else is under way; then it counts
                self._staged = None

    def unstage(self) -> None:
        """The copy on the device counts no more: something else may run in its place before the launch."""
        self._staged = None

    def launch(self) -> None:
        """Starts the forward; nothing else may be computing."""
        self._try(self._launch)
        self._forward.stamp()

    def is_done(self) -> bool:
        """Whether `land` will not wait."""
        return self._landing is None or self._landing.is_done()

    def land(self) -> None:
        """Waits until the device is done with the batch."""
        self._try(self._land)
        self._made = self._staged = self._landing = None
        self._forward.stamp()

    def ran(self, *, is_alone: bool) -> Ran:
        """The answer. With `is_alone` nothing is on the device, so that it may be asked whether it still works."""
        if self._failure is None:
            self._try(self._answer)
        self._outputs = {}
        if self._failure is not None:
            finding, text = self._failure
            return self._forward.failed(self._message, finding, text, self._host_ms, self._notes, is_alone=is_alone)
        return self._answered

    # --- the steps --------------------------------------------------------------------------------

    def _try(self, step: Callable[[], None]) -> None:
        if self._failure is not None:
            return
        try:
            step()
        except Exception as error:  # noqa: BLE001 - the process edge: what a model raises must reach its jobs
            finding = classify(error)
            self._failure = finding, describe(error, finding)[:2000]

    def _preprocess(self) -> None:
        self._made = self._forward.tensors(self._message, self._notes)

    def _stage(self) -> None:
        slab, places, size = self._message.slab, *self._forward.places(self._message, self._made)
        self._staged = self._backend.stage(slab, places, size, self._made)

    def _launch(self) -> None:
        if self._staged is None:
            self._stage()
        self._landing = self._backend.launch(self._staged, self._message.rows)

    def _land(self) -> None:
        assert self._landing is not None, "it was launched, or failed"
        self._outputs = self._landing.finish()
        self._host_ms += self._landing.ms

    def _answer(self) -> None:
        self._answered = self._forward.answer(self._message, self._outputs, self._host_ms, self._notes, is_placed=True)
