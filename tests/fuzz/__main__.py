"""`make fuzz`: the targets of this folder again and again, each round with another seed, for FUZZ_SECONDS (default 300).

Ends with 1 at the first failure, after printing the seed and hypothesis' smallest failing input with its blob.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = 400  # of each target a round; rounds are short, so that the time asked for is kept


def main() -> int:
    seconds = float(os.environ.get("FUZZ_SECONDS", "300"))
    until = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < until:
        seed = secrets.randbits(32)
        command = [
            sys.executable, "-m", "pytest", "-q", "-x", "tests/fuzz", f"--hypothesis-seed={seed}", "-p", "no:cacheprovider",
            "-o", "timeout=900",
        ]  # fmt: skip
        environment = {**os.environ, "PENSTOCK_FUZZ_EXAMPLES": str(EXAMPLES)}
        ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        rounds += 1
        if ran.returncode:
            print(ran.stdout[-20_000:] + ran.stderr[-2_000:])
            print(f"FAILED in round {rounds}; again: PENSTOCK_FUZZ_EXAMPLES={EXAMPLES} {' '.join(command)}")
            return 1
        print(
            f"round {rounds}, seed {seed}, {EXAMPLES} inputs a target: {ran.stdout.strip().splitlines()[-1]}",
            flush=True,
        )
    print(f"fuzz: {rounds} rounds in {seconds:.0f} s, no failure")
    return 0


if __name__ == "__main__":
    sys.exit(main())
