"""Slabs as pinned memory: registered with the CUDA driver, so that the device copies to and from them by itself.

Registers the engine's own mapping of each slab's memfd, which begins and ends at a page, once, when the context is there, and
takes it back before the mapping goes. What is refused stays unpinned: whoever copies then needs a buffer of its own between.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence

import numpy as np

from workers import console
from workers.backends.primary import Primary
from workers.slabs import Slab

PORTABLE = 1  # CU_MEMHOSTREGISTER_PORTABLE: pinned for every context of the process


class PinnedSlab:
    """One registered mapping. `release` gives it back; so does the end of the last reference."""

    def __init__(self, slab: Slab, primary: Primary) -> None:
        self.slab = slab  # keeps the mapping until it is released
        self._release = weakref.finalize(self, _unregister, primary, slab)
        self._release.atexit = False  # a process that ends gives all back, its context may be gone by then

    def release(self) -> None:
        """Unregisters the mapping; once is enough."""
        self._release()


def pin(slabs: Sequence[Slab], primary: Primary) -> list[PinnedSlab]:
    """All slabs, registered; none when one is refused, which is logged with the driver's code."""
    pinned: list[PinnedSlab] = []
    for slab in slabs:
        size = ctypes.c_size_t(len(slab.whole))
        if error := primary.ask(("cuMemHostRegister_v2", _address(slab), size, ctypes.c_uint(PORTABLE))):
            for one in pinned:
                one.release()
            console.warn(
                "slabs not pinned",
                call=error[0],
                code=error[1],
                next="copies go through pinned buffers of the engine's own",
            )
            return []
        pinned.append(PinnedSlab(slab, primary))
    return pinned


def _address(slab: Slab) -> ctypes.c_void_p:
    return ctypes.c_void_p(np.frombuffer(slab.whole, np.uint8).ctypes.data)


def _unregister(primary: Primary, slab: Slab) -> None:
    if error := primary.ask(("cuMemHostUnregister", _address(slab))):
        console.warn(
            "slab not unpinned", call=error[0], code=error[1], next="the driver lets go of it with the process"
        )
