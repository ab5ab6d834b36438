"""A slot without an engine: says what a real one would say, and nothing else. Run as `python fake_slot.py --slot N`.

A file `slot-N.cannot-load` in var/ makes it fail to load with the file's text; `slot-N.silent` makes it exit at once
without a word; `slot-N.backing-off` makes it wait, as after a kill, until that file is gone; while there is a `slot-N.busy` it says
that it holds jobs.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from broker import roster, settings
from broker.connection import Link
from broker.queue import Queue

BEAT_S = 0.1
MISCONFIGURED, LOAD_FAILED = 78, 70


def main() -> int:
    number = int(sys.argv[sys.argv.index("--slot") + 1])
    chosen = settings.load()
    if (chosen.var / f"slot-{number}.silent").exists():
        print("this program was never found")
        return 1
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    link = Link(chosen.redis_url_as("worker"))
    link.connect_within(10)
    name = roster.slot_name(chosen.host, number)
    assignment = roster.assignments(link, chosen.host).get(number)
    if assignment is None:
        roster.record_exit(link, name, "misconfigured", "no assignment", 0)
        return MISCONFIGURED
    queue = Queue(assignment.model, f"{name}.{os.getpid()}")
    note = chosen.var / f"slot-{number}.cannot-load"
    is_ready = not note.exists()
    state = {
        "name": name, "model": assignment.model, "version": "1", "device": assignment.device, "pid": os.getpid(),
        "state": "ready" if is_ready else "backing off", "reason": "" if is_ready else note.read_text(),
        "jobs": 7, "device_bytes": "", "host_bytes": 1 << 20, "load_s": 0.2,
    }  # fmt: skip
    if not is_ready:
        roster.record_exit(
            link, name, "load_failed", note.read_text().removeprefix("load_failed: "), 0
        )  # of the life before this one
    rest = chosen.var / f"slot-{number}.backing-off"
    while rest.exists() and not stop.wait(BEAT_S):
        waiting = {"state": "backing off", "reason": "5 lives in a row settled nothing (last: killed)"}
        link.call(*roster.announce(name, state | waiting))
    while not stop.wait(BEAT_S):
        held = 3 if (chosen.var / f"slot-{number}.busy").exists() else 0
        link.call(*roster.announce(name, state | {"held": held}))
        link.call(*queue.pulse(name, (), ready_ms=3000 * is_ready, failing_ms=3000 * (not is_ready), frees_place=True))
    link.call(*queue.pulse(name, (), ready_ms=0, failing_ms=0, frees_place=True))
    roster.record_exit(link, name, "drained", "", 7)
    return 0


if __name__ == "__main__":
    sys.exit(main())
