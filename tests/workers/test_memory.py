"""What the engine does with memory that is freed."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import resource
import numpy as np
from workers import memory
if {keeps}: memory.keep_freed()
def forward():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [np.ones(1 << 20) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(5): faults = forward()
held = memory.host_bytes()
forward()
print(faults, memory.host_bytes() - held)
"""


def run(*, keeps: bool) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", CODE.format(keeps=keeps)], capture_output=True, text=True, check=True)
    faults, grown = done.stdout.split()
    return int(faults), int(grown)


def test_what_a_forward_frees_the_next_one_takes_without_a_page_fault_and_it_counts_as_no_growth() -> None:
    faults, grown = run(keeps=True)
    assert faults < 1000
    assert abs(grown) < 4 << 20
    assert run(keeps=False)[0] > 3_000, "the test would see no difference"
