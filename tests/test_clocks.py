"""Time is Redis TIME or a monotonic clock (design, invariant 5): a step of the wall clock must change nothing."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WALL = {
    "time.time", "time.time_ns", "time.ctime", "time.localtime", "time.gmtime", "time.strftime", "time.clock_gettime",
    "datetime.now", "datetime.utcnow", "datetime.today", "datetime.datetime.now", "datetime.datetime.utcnow",
    "datetime.date.today", "date.today",
}  # fmt: skip
ALLOWED = {("workers/trust.py", "datetime.now")}  # (file, call): for what a human reads, never for a decision


def wall_reads(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in WALL:
            found.append(ast.unparse(node))
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            found += [f"time.{name.name}" for name in node.names if f"time.{name.name}" in WALL]
    return found


def test_a_wall_clock_is_found_however_it_is_written() -> None:
    assert wall_reads("import time\nx = time.time()") == ["time.time"]
    assert wall_reads("from time import time_ns") == ["time.time_ns"]
    assert wall_reads("from datetime import datetime\nclock = datetime.now") == ["datetime.now"]
    assert wall_reads("import time\nx = time.monotonic() + time.perf_counter()") == []


def test_no_decision_reads_the_wall_clock() -> None:
    found = {
        (str(path.relative_to(ROOT)), call)
        for package in ("broker", "producer", "workers")
        for path in (ROOT / package).rglob("*.py")
        for call in wall_reads(path.read_text())
    }
    assert found == ALLOWED
