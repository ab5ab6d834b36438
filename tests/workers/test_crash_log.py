"""What a slot's log says of a crash."""

from __future__ import annotations

import json
import subprocess
import sys

CRASH = """
import structlog, sys
from workers import main

class Life:
    def __init__(self, *given, **named):
        try:
            raise TypeError("an integer is required")
        except TypeError:
            structlog.get_logger().exception("slot crashed")
        raise main.Stopped

main.Life = Life
sys.exit(main.main(["--slot", "0"]))
"""


def test_a_crash_is_logged_with_its_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, timeout=30, check=True)
    line = json.loads(done.stderr.splitlines()[-1])
    assert line["event"] == "slot crashed"
    assert line["exception"].startswith("Traceback")
    assert "TypeError: an integer is required" in line["exception"]
