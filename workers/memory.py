"""How much memory this process holds of its own; read in the engine at idle points, judged elsewhere."""

from __future__ import annotations

import ctypes
import gc

from broker.errors import PenstockError

STATUS = "/proc/self/status"


def host_bytes() -> int:
    """Anonymous resident memory (RssAnon) after what can be given back was: shared slabs and mapped weights don't count.

    Costs a full garbage collection and a malloc_trim, tens of ms in a large process: for idle points only.
    Raises PenstockError where the kernel has no RssAnon (before Linux 4.5).
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # a libc without it (musl)
        pass
    with open(STATUS, "rb") as status:
        for line in status:
            if line.startswith(b"RssAnon:"):
                return int(line.split()[1]) * 1024
    raise PenstockError(f"{STATUS} has no RssAnon; Linux 4.5 or newer is needed, or switch host_growth_mb off (0)")
