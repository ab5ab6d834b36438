"""Standard output and error whose reader is gone, in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def run(code: str, *, keeps: bool) -> tuple[int, bytes]:
    """Exit code and what it wrote to standard error; without `keeps` nobody reads from the start."""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stderr is not None
    if not keeps:
        child.stdout.close()
        child.stderr.close()
        assert child.stdin is not None
        child.stdin.close()
        return child.wait(20), b""
    _, said = child.communicate(timeout=20)
    return child.returncode, said


SAYS = """
import sys
from workers import console
console.outlast()
sys.stdin.read()
for out in (sys.stdout, sys.stderr):
    print("a line", file=out, flush=True)
"""


def test_what_nobody_reads_is_dropped_and_raises_nothing() -> None:
    assert run(SAYS, keeps=False) == (0, b"")
    assert run(SAYS, keeps=True) == (0, b"a line\n")


def test_the_last_line_of_a_process_waits_neither_for_a_full_pipe_nor_for_another_thread() -> None:
    full = """
import fcntl, os, sys
from workers import console
console.last_line("slot stuck", slot="h/0")
fcntl.fcntl(2, fcntl.F_SETPIPE_SZ, 4096)
os.set_blocking(2, False)
try:
    while True:
        os.write(2, b"x")
except BlockingIOError:
    os.set_blocking(2, True)
console.last_line("slot stuck", slot="h/1")
"""
    child = subprocess.Popen([sys.executable, "-c", full], stderr=subprocess.PIPE)
    try:
        assert child.wait(20) == 0, "nobody has read a byte of it"
        assert child.stderr is not None
        said = child.stderr.read()
    finally:
        child.kill()
        child.communicate()
    assert b'"slot":"h/0"' in said
    assert b"h/1" not in said
