"""Many lives of four slots on one device: its memory afterwards is what it was before, and no job is lost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.busy import free_bytes
from benchmarks.gpu.models import Net
from benchmarks.gpu.slots import running
from broker.errors import JobFailed, ResultExpired, ResultTimeout
from producer import Producer

SLOTS = 4
JOBS_A_LIFE = 8
PART = 16  # jobs submitted at a time
GIVE_UP_S = 3000.0
RESULT_WITHIN_S = 120.0
GONE_WITHIN_S = 20.0
SAME_BYTES = 64 << 20  # what a driver keeps or lets go by itself


def storm(net: Net, folder: Path, url: str, *, device: str, retirements: int) -> dict[str, Any]:
    """Feeds the slots until so many lives have ended. Device memory is looked at with no slot there, before and after."""
    artifact = net.artifact(folder / "artifact", precision="float32", cuda_graphs=False, max_rows=4)
    before = free_bytes(device)
    lost = jobs = 0
    began = time.monotonic()
    with running(
        folder, url, artifact.folder, model=net.name, device=device, slots=SLOTS, max_rows=4, retire_jobs=JOBS_A_LIFE
    ) as slots:
        with Producer(url) as producer:
            x = net.jobs(PART)
            while slots.exits < retirements and time.monotonic() - began < GIVE_UP_S:
                handles = producer.submit_many(net.name, x, wait_s=30)
                for handle in handles:
                    jobs += 1
                    try:
                        handle.result(RESULT_WITHIN_S)
                    except (JobFailed, ResultTimeout, ResultExpired):
                        lost += 1
        seen = slots.exits
    after = free_bytes(device)
    deadline = time.monotonic() + GONE_WITHIN_S
    while before is not None and after is not None and before - after > SAME_BYTES and time.monotonic() < deadline:
        time.sleep(0.2)
        after = free_bytes(device)
    grown = before - after if before is not None and after is not None else None
    return {
        "slots": SLOTS, "retirements": seen, "jobs": jobs, "lost": lost, "took_s": time.monotonic() - began,
        "device_bytes_grown": grown, "is_same": grown is not None and grown <= SAME_BYTES,
    }  # fmt: skip
