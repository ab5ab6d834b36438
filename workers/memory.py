"""How much memory this process holds of its own; read in the engine at idle points, judged elsewhere."""

from __future__ import annotations

import ctypes
import gc

from broker.errors import PenstockError

STATUS = "/proc/self/status"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
MMAP_FROM_BYTES = 32 << 20  # the most glibc takes; larger blocks are mapped and unmapped each time
TRIM_FROM_BYTES = 1 << 30


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


def keep_freed() -> None:
    """Has malloc keep what is freed instead of giving it back to the kernel, as it does with large blocks by default.

    A forward on the CPU frees tens of megabytes and takes them again in the next: each page of them costs a fault and is zeroed
    anew, 17 000 times per batch of a small encoder, a twentieth of its time. `host_bytes` trims first, so growth still shows.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc's
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_FROM_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_FROM_BYTES)
